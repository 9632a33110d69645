"""The datasets that have a name: their files, digests, sources, classes and licences. Facts only.

Every digest, size, address and class list below was published by someone; the comment beside it says by whom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class Refusal(Exception):
    """Why one source could not give one file. Remembered while the next source is tried."""


@dataclass(frozen=True)
class Content:
    """One file inside a download, as the cache keeps it: unpacked.

    `digest` is None where nobody published one; the download's own digest then vouches for it. `member` is
    its path inside a tar archive, '' when the download is one gzipped file.
    """

    name: str
    size_bytes: int
    split: Literal["train", "test"]
    digest: str | None = None
    member: str = ""


@dataclass(frozen=True)
class RemoteFile:
    """One file as its publisher offers it.

    `digest` reads 'sha256:…' or 'md5:…'; `size_bytes` is None where nobody published it.
    """

    name: str
    size_bytes: int | None
    digest: str
    contents: tuple[Content, ...]


@dataclass(frozen=True)
class Folder:
    """A folder that may hold a copy, packed or unpacked; relative to the working directory."""

    path: str


@dataclass(frozen=True)
class PickledCopy:
    """A folder whose copy is pickled: never read, because reading a pickle can run code."""

    path: str


@dataclass(frozen=True)
class Mirror:
    """A web address that the file's name is appended to."""

    url: str


@dataclass(frozen=True)
class DebianPackage:
    """A package of Debian and Ubuntu, and the folder it installs the files in."""

    package: str
    folder: str


Source = Folder | PickledCopy | Mirror | DebianPackage
Layout = Literal["idx", "cifar", "shipped"]


@dataclass(frozen=True)
class NamedDataset:
    """A dataset known by name; `sources` are tried in order.

    `shape` is one image's: (channels, height, width). `remark` is said aloud when the dataset is opened.
    """

    name: str
    title: str
    layout: Layout
    files: tuple[RemoteFile, ...]
    sources: tuple[Source, ...]
    licence: str
    classes: tuple[str, ...]
    citation: str
    homepage: str
    shape: tuple[int, int, int]
    train_count: int
    test_count: int
    remark: str = ""


def idx_file(name: str, size_bytes: int, digest: str, content_bytes: int, content_digest: str = "") -> RemoteFile:
    """Declare a gzipped idx file; its content has the same name without '.gz'."""
    split: Literal["train", "test"] = "train" if name.startswith("train") else "test"
    content = Content(name.removesuffix(".gz"), content_bytes, split, content_digest or None)
    return RemoteFile(name, size_bytes, digest, (content,))


def torchvision_folders(class_name: str) -> tuple[Folder, ...]:
    """Return where torchvision keeps a dataset of the MNIST family, and its usual root itself."""
    return (Folder(f"data/{class_name}/raw"), Folder(f"{class_name}/raw"), Folder("data"))


DIGITS = tuple("0123456789")

# idx: a 16-byte header and 784 bytes an image, an 8-byte header and one byte a label.
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = (
    16 + 60_000 * 784,
    8 + 60_000,
    16 + 10_000 * 784,
    8 + 10_000,
)

FASHION_MNIST = NamedDataset(
    name="fashion-mnist",
    title="Fashion-MNIST",
    layout="idx",
    # Sizes and SHA-256 of the .gz: tensorflow/datasets, url_checksums/fashion_mnist.txt; the SHA-256 also in
    # keras-team/keras, keras/src/datasets/fashion_mnist.py. SHA-256 of the contents: computed from Debian's
    # package dataset-fashion-mnist 0.0~git20200523.55506a9-1, whose files were compressed anew. They are the
    # publisher's: putting the gzip header back (the file's name; times 1504176606 for train, 1504176627 for
    # t10k) gives the MD5 sums that zalandoresearch/fashion-mnist prints in its README.
    files=(
        idx_file(
            "train-images-idx3-ubyte.gz",
            26_421_880,
            "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            TRAIN_IMAGES,
            "sha256:c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        idx_file(
            "train-labels-idx1-ubyte.gz",
            29_515,
            "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            TRAIN_LABELS,
            "sha256:bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        idx_file(
            "t10k-images-idx3-ubyte.gz",
            4_422_102,
            "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            TEST_IMAGES,
            "sha256:5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        idx_file(
            "t10k-labels-idx1-ubyte.gz",
            5_148,
            "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            TEST_LABELS,
            "sha256:0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    sources=(
        *torchvision_folders("FashionMNIST"),
        Folder("/usr/share/datasets/fashion-mnist"),  # where Debian's package installs it
        Mirror("https://storage.googleapis.com/tensorflow/tf-keras-datasets/"),  # keras/src/datasets/fashion_mnist.py
        Mirror("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"),  # its README
        # The publisher's own address has no HTTPS; the digests make plain HTTP safe here.
        Mirror("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
        DebianPackage("dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist"),
    ),
    licence="MIT (Zalando SE)",  # its README and LICENSE
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    citation=(
        "Han Xiao, Kashif Rasul, Roland Vollgraf. Fashion-MNIST: a Novel Image Dataset for Benchmarking "
        "Machine Learning Algorithms. arXiv:1708.07747, 2017."
    ),
    homepage="https://github.com/zalandoresearch/fashion-mnist",
    shape=(1, 28, 28),
    train_count=60_000,
    test_count=10_000,
)

MNIST = NamedDataset(
    name="mnist",
    title="MNIST",
    layout="idx",
    # Sizes and SHA-256 of the .gz: tensorflow/datasets, url_checksums/mnist.txt. SHA-256 of the contents:
    # published side by side with the same .gz sums by several independent projects that read these files.
    files=(
        idx_file(
            "train-images-idx3-ubyte.gz",
            9_912_422,
            "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            TRAIN_IMAGES,
            "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        idx_file(
            "train-labels-idx1-ubyte.gz",
            28_881,
            "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            TRAIN_LABELS,
            "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        idx_file(
            "t10k-images-idx3-ubyte.gz",
            1_648_877,
            "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            TEST_IMAGES,
            "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        idx_file(
            "t10k-labels-idx1-ubyte.gz",
            4_542,
            "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            TEST_LABELS,
            "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    sources=(
        *torchvision_folders("MNIST"),
        Mirror("https://storage.googleapis.com/cvdf-datasets/mnist/"),  # tensorflow/datasets
        Mirror("https://ossci-datasets.s3.amazonaws.com/mnist/"),  # torchvision/datasets/mnist.py
    ),
    # As the documentation of keras.datasets.mnist.load_data states it.
    licence="CC BY-SA 3.0 (Yann LeCun, Corinna Cortes)",
    classes=DIGITS,
    citation=(
        "Yann LeCun, Léon Bottou, Yoshua Bengio, Patrick Haffner. Gradient-based learning applied to "
        "document recognition. Proceedings of the IEEE 86(11), 1998."
    ),
    homepage="http://yann.lecun.com/exdb/mnist/",
    shape=(1, 28, 28),
    train_count=60_000,
    test_count=10_000,
)

KMNIST = NamedDataset(
    name="kmnist",
    title="Kuzushiji-MNIST",
    layout="idx",
    # Sizes and SHA-256: tensorflow/datasets, url_checksums/kmnist.txt. Nobody publishes digests of the
    # contents.
    files=(
        idx_file(
            "train-images-idx3-ubyte.gz",
            18_165_135,
            "sha256:51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            TRAIN_IMAGES,
        ),
        idx_file(
            "train-labels-idx1-ubyte.gz",
            29_497,
            "sha256:e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            TRAIN_LABELS,
        ),
        idx_file(
            "t10k-images-idx3-ubyte.gz",
            3_041_136,
            "sha256:edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            TEST_IMAGES,
        ),
        idx_file(
            "t10k-labels-idx1-ubyte.gz",
            5_120,
            "sha256:20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
            TEST_LABELS,
        ),
    ),
    sources=(
        *torchvision_folders("KMNIST"),
        Mirror("https://codh.rois.ac.jp/kmnist/dataset/kmnist/"),  # ankane/torchvision-ruby
        Mirror("http://codh.rois.ac.jp/kmnist/dataset/kmnist/"),  # the publisher's README, rois-codh/kmnist
    ),
    licence="CC BY-SA 4.0 (KMNIST Dataset, created by CODH; adapted from Kuzushiji Dataset, NIJL and others)",
    classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),  # torchvision/datasets/mnist.py
    citation=(
        "Tarin Clanuwat, Mikel Bober-Irizar, Asanobu Kitamoto, Alex Lamb, Kazuaki Yamamoto, David Ha. Deep "
        "Learning for Classical Japanese Literature. arXiv:1812.01718, 2018."
    ),
    homepage="https://github.com/rois-codh/kmnist",
    shape=(1, 28, 28),
    train_count=60_000,
    test_count=10_000,
)

CIFAR_CITATION = "Alex Krizhevsky. Learning Multiple Layers of Features from Tiny Images. Technical report, 2009."
CIFAR_LICENCE = "none stated; the authors ask for their technical report to be cited"
CIFAR_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"

CIFAR10 = NamedDataset(
    name="cifar10",
    title="CIFAR-10",
    layout="cifar",
    # Size and SHA-256: tensorflow/datasets, url_checksums/cifar10.txt. (MD5 on the homepage:
    # c32a1d4ab5d03f1284b67883e8d87530.) The binary version: its python version is pickled.
    # Members and record layout (1 byte label, 3 x 1024 bytes red, green, blue): the homepage.
    files=(
        RemoteFile(
            "cifar-10-binary.tar.gz",
            170_052_171,
            "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            (
                *(
                    Content(
                        f"data_batch_{number}.bin",
                        10_000 * 3073,
                        "train",
                        member=f"cifar-10-batches-bin/data_batch_{number}.bin",
                    )
                    for number in range(1, 6)
                ),
                Content("test_batch.bin", 10_000 * 3073, "test", member="cifar-10-batches-bin/test_batch.bin"),
            ),
        ),
    ),
    sources=(
        Folder("data"),
        PickledCopy("data/cifar-10-batches-py"),
        Mirror("https://www.cs.toronto.edu/~kriz/"),
    ),
    licence=CIFAR_LICENCE,
    classes=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    citation=CIFAR_CITATION,
    homepage=CIFAR_HOME,
    shape=(3, 32, 32),
    train_count=50_000,
    test_count=10_000,
)

FINE_LABELS = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
    dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
    leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
    otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
    road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""  # the archive's fine_label_names.txt, in its order
CIFAR100_CLASSES = tuple(FINE_LABELS.split())

CIFAR100 = NamedDataset(
    name="cifar100",
    title="CIFAR-100",
    layout="cifar",
    # Size and SHA-256: tensorflow/datasets, url_checksums/cifar100.txt. (MD5 on the homepage:
    # 03b5dce01913d631647c71ecec9e9cb8.) Records: 1 byte superclass, 1 byte class, 3 x 1024 bytes.
    files=(
        RemoteFile(
            "cifar-100-binary.tar.gz",
            168_513_733,
            "sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            (
                Content("train.bin", 50_000 * 3074, "train", member="cifar-100-binary/train.bin"),
                Content("test.bin", 10_000 * 3074, "test", member="cifar-100-binary/test.bin"),
            ),
        ),
    ),
    sources=(
        Folder("data"),
        PickledCopy("data/cifar-100-python"),
        Mirror("https://www.cs.toronto.edu/~kriz/"),
    ),
    licence=CIFAR_LICENCE,
    classes=CIFAR100_CLASSES,
    citation=CIFAR_CITATION,
    homepage=CIFAR_HOME,
    shape=(3, 32, 32),
    train_count=50_000,
    test_count=10_000,
)

UCI_DIGITS = NamedDataset(
    name="digits",
    title="Optical Recognition of Handwritten Digits (test set)",
    layout="shipped",
    files=(),
    sources=(),
    licence="CC BY 4.0 (E. Alpaydin, C. Kaynak; UCI Machine Learning Repository)",
    classes=DIGITS,
    citation=(
        "E. Alpaydin, C. Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, "
        "1998. https://doi.org/10.24432/C50P49"
    ),
    homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    shape=(1, 8, 8),
    train_count=1_437,
    test_count=360,
    remark=(
        "The same 13 people wrote the training and the test digits, "
        "so accuracy on other people's writing will be lower."
    ),
)

DATASETS: dict[str, NamedDataset] = {
    dataset.name: dataset for dataset in (FASHION_MNIST, MNIST, KMNIST, CIFAR10, CIFAR100, UCI_DIGITS)
}

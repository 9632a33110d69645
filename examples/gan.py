"""A GAN: two networks, two optimizers, one function that does a whole step of both.

python examples/gan.py
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

import rushlight


class Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid())
        self.critic = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1))

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)


def program(folder: Path, small: bool = False) -> tuple[nn.Module, Any, dict[str, Any]]:
    torch.manual_seed(0)
    gan = Gan()
    of_maker = torch.optim.Adam(gan.generator.parameters(), lr=2e-3, betas=(0.5, 0.99))
    of_critic = torch.optim.Adam(gan.critic.parameters(), lr=1e-3, betas=(0.5, 0.99))

    def step(batch: Any) -> dict[str, Tensor]:
        real = batch[0]
        fake = gan.generator(torch.randn(len(real), 16, device=real.device))
        judged = (softplus(-gan.critic(real)) + softplus(gan.critic(fake.detach()))).mean()
        of_critic.zero_grad()
        judged.backward()
        of_critic.step()
        fooled = softplus(-gan.critic(fake)).mean()
        of_maker.zero_grad()
        fooled.backward()
        of_maker.step()
        return {"loss": fooled, "critic": judged.detach()}

    optimizers = {"optimizer": of_maker, "keep": [of_critic]}
    return gan, "digits", {"step": step, **optimizers, "normalize": "unit", "epochs": 2 if small else 60}


def use(run: rushlight.Run, folder: Path) -> None:
    model = rushlight.load(run.save(folder / "gan.pth"), Gan())
    with torch.no_grad():
        picture = model(torch.randn(1, 16, generator=torch.Generator().manual_seed(0))).reshape(8, 8)
    print(*("".join(" .+#"[min(3, int(4 * shade))] * 2 for shade in row) for row in picture.tolist()), sep="\n")


if __name__ == "__main__":
    model, data, options = program(Path())
    use(rushlight.train(model, data, **options), Path())

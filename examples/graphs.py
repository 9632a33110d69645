"""A graph network: does a graph have a triangle? Batches of PyTorch Geometric as they are; needs torch_geometric."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GINConv, global_add_pool

import rushlight


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        inner = [nn.Sequential(nn.Linear(size, 32), nn.ReLU(), nn.Linear(32, 32)) for size in (1, 32, 32)]
        self.layers, self.head = nn.ModuleList(map(GINConv, inner)), nn.Linear(32, 2)

    def forward(self, x: Tensor, edges: Tensor, graph: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, edges).relu()
        return self.head(global_add_pool(x, graph))


def graphs(count: int, seed: int) -> list[Data]:
    """Return rings of 6 to 12 nodes; every second one has a chord too, which makes a triangle."""
    found = []
    for number in range(count):
        nodes = torch.arange(6 + (5 * number + seed) % 7)
        ring, chord = torch.stack([nodes, nodes.roll(-1)]), torch.tensor([[0], [2]])[:, : 1 - number % 2]
        edges = torch.cat([ring, chord, ring.flip(0), chord.flip(0)], dim=1)
        found.append(Data(x=torch.ones(len(nodes), 1), edge_index=edges, y=torch.tensor([1 - number % 2])))
    return found


def objective(model: nn.Module, batch: Any) -> dict[str, Any]:
    outputs = model(batch.x, batch.edge_index, batch.batch)
    return {"loss": cross_entropy(outputs, batch.y), "accuracy": (outputs.argmax(1) == batch.y).float().mean()}


def program(folder: Path, small: bool = False) -> tuple[nn.Module, Any, dict[str, Any]]:
    torch.manual_seed(0)
    count, test = (40, graphs(16, 1)) if small else (600, graphs(200, 1))
    options = {"objective": objective, "test_data": DataLoader(test, 32), "epochs": 2 if small else 40, "lr": 3e-3}
    return Network(), DataLoader(graphs(count, 0), 16, shuffle=True), options


def use(run: rushlight.Run, folder: Path) -> None:
    report, batch = run.test(), next(iter(DataLoader(graphs(4, 2), 4)))
    model = rushlight.load(run.save(folder / "graphs.pth"), Network())
    print(report.n, report.numbers, model(batch.x, batch.edge_index, batch.batch).argmax(1).tolist())


if __name__ == "__main__":
    model, data, options = program(Path())
    use(rushlight.train(model, data, **options), Path())

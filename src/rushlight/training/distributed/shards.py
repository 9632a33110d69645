"""A model divided among the processes of a run by torch's FSDP2 (`fully_shard`): each keeps some rows of every parameter.

A unit is gathered whole for its forward and its backward pass, and its gradients are added up row by row. Units are the
model's children, the members of every ModuleList, and the model itself for what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rushlight.training.distributed.world import World


class Shards:
    """One process's rows of every parameter; `parameters` are these as plain tensors, for the optimizer to update.

    The model is divided in place, with the first process's weights, and the optimizer gets the rows in place of the
    parameters. Both are whole again after `put_back`.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, world: World) -> None:
        from torch.distributed.fsdp import fully_shard

        self.model, self.optimizer, self.world = model, optimizer, world
        self.before = [(module, type(module), set(vars(module)), hooks_of(module)) for module in model.modules()]
        names = {id(each): name for name, each in model.named_parameters()}
        places = [[names[id(each)] for each in group["params"]] for group in optimizer.param_groups]
        self.shapes = {
            name: tuple(each.shape) for name, each in model.named_parameters(remove_duplicate=False)
        }  # whole
        for tensor in (*model.parameters(), *model.buffers()):
            world.give(tensor.detach())
        mesh = world.mesh()
        for unit in units(model):
            divided: Any = fully_shard(unit, mesh=mesh)
            divided.set_gradient_divide_factor(1.0)
            divided.set_force_sum_reduction_for_comms(True)
        world.is_divided = True
        self.divided = dict(model.named_parameters())
        self.parameters = {
            name: nn.Parameter(local(each), requires_grad=each.requires_grad) for name, each in self.divided.items()
        }
        for group, those in zip(optimizer.param_groups, places, strict=True):
            group["params"] = [self.parameters[name] for name in those]

    def rows(self, length: int) -> tuple[int, int]:
        """Return the first row of this process, of a parameter with `length` rows, and the one after its last."""
        return own_rows(length, self.world.rank, self.world.size)

    def take_gradients(self) -> Iterator[bool]:
        """Give each row its gradient, the sum over all processes; tell for each parameter whether it has one."""
        for name, parameter in self.divided.items():
            rows, parameter.grad = parameter.grad, None
            self.parameters[name].grad = None if rows is None else local(rows)
            yield rows is not None

    def norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Return the norm of the whole gradients of some of `parameters`, of each of which this process has its rows."""
        gradients = [each.grad for each in parameters if each.grad is not None]
        squares = torch.tensor([float(nn.utils.get_total_norm(gradients)) ** 2], dtype=torch.float64)
        self.world.add_up(squares)
        return squares.sqrt().to(gradients[0].dtype if gradients else torch.float64)[0]

    def model_state(self) -> dict[str, Tensor]:
        """Return the model's state_dict with this process's rows."""
        return {name: local(each) for name, each in self.model.state_dict().items()}

    @torch.no_grad()
    def load_model_state(self, state: dict[str, Tensor]) -> None:
        """Set rows and buffers as `model_state` returned them, and what modules keep besides."""
        for name, each in self.model_state().items():
            owner, _, leaf = name.rpartition(".")
            if leaf == "_extra_state":
                self.model.get_submodule(owner).set_extra_state(state[name])
            else:
                each.copy_(state[name])

    def gathered(self, name: str, own: Tensor) -> Tensor:
        """Return a whole parameter, of which these rows are this process's; their memory is let go."""
        found = torch.empty(self.shapes[name], dtype=own.dtype)
        for rank in range(self.world.size):
            first, end = own_rows(len(found), rank, self.world.size)
            if rank == self.world.rank:
                found[first:end] = own
            if first < end:
                self.world.give(found[first:end], rank)
        own.untyped_storage().resize_(0)  # FSDP2 itself never lets go of it
        return found

    @torch.no_grad()
    def put_back(self) -> None:
        """Make the model whole again in every process, as it was before it was divided; what the optimizer keeps is let go."""
        self.optimizer.state.clear()
        whole: dict[int, nn.Parameter] = {}
        for name, each in list(self.model.named_parameters(remove_duplicate=False)):
            if id(each) not in whole:
                whole[id(each)] = nn.Parameter(self.gathered(name, local(each)), requires_grad=each.requires_grad)
            owner, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(owner), leaf, whole[id(each)])
        for module, kind, names, hooks in self.before:
            module.__class__ = kind
            for name in set(vars(module)) - names:
                delattr(module, name)
            for name, keys in hooks.items():
                for key in set(vars(module)[name]) - keys:
                    del vars(module)[name][key]
        self.world.is_divided = False
        named = {id(self.parameters[name]): whole[id(each)] for name, each in self.divided.items()}
        for group in self.optimizer.param_groups:
            group["params"] = [named[id(each)] for each in group["params"]]


def units(model: nn.Module) -> list[nn.Module]:
    """Return the modules to divide one by one, inner ones first: children, members of ModuleLists, the model itself.

    One that shares a parameter with modules outside of it is left to the unit around it.
    """
    chosen = {id(child): child for child in model.children()}
    for module in model.modules():
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            chosen |= {id(member): member for member in module.children()}
    users: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), set()).add(id(module))
    found = []
    for module in reversed(list(model.modules())):
        inside = set(map(id, module.modules()))
        own = [users[id(parameter)] for parameter in module.parameters()]
        is_list = isinstance(module, (nn.ModuleList, nn.ModuleDict))  # which are never called
        if id(module) in chosen and not is_list and own and all(each <= inside for each in own):
            found.append(module)
    return [*found, model]


def own_rows(length: int, rank: int, processes: int) -> tuple[int, int]:
    """Return the rows of one process, as `torch.chunk` divides them: the last ones may have fewer, or none."""
    each = -(-length // processes)
    return min(length, each * rank), min(length, each * (rank + 1))


def local(tensor: Any) -> Tensor:
    """Return this process's rows of a divided tensor, in the same memory; any other tensor as it is."""
    found: Tensor = tensor.detach().to_local() if hasattr(tensor, "to_local") else tensor
    return found


def hooks_of(module: nn.Module) -> dict[str, set[Any]]:
    """Return the keys of a module's hooks, by the name of their dict."""
    return {name: set(value) for name, value in vars(module).items() if name.endswith(("hooks", "hooks_with_kwargs"))}

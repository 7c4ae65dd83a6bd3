"""Whether the memory of a machine is enough for a training."""

from __future__ import annotations

from dataclasses import dataclass

from stages.needs import Machine, Memory, Needs
from stages.store.report import size


@dataclass(frozen=True)
class Room:
    """One memory of the machine, and what of it is needed."""

    name: str  # of the memory, as a sentence has it
    needed: int  # bytes
    total: int
    free: int  # now


def rooms_of(needs: Needs, processes: int) -> list[Room]:
    """Compare what all processes of a machine need with what it has.

    On a GPU, a process's weights are loaded by the CPU first, and its largest checkpoint's file
    comes back there.
    """
    machine, memory = needs.machine, needs.memory
    if machine.device == "cpu":
        needed = processes * (memory.total + machine.process)
        return [Room("memory", needed, machine.total, machine.free)]
    a_device = -(-processes // machine.num_devices)
    device = f"memory of {machine.name or 'the device'}"
    rooms = [Room(device, a_device * memory.total, machine.total, machine.free)]
    if machine.device == "given":
        return rooms
    passing = max(memory.weights + needs.away, *needs.checkpoint.values())
    host = processes * (machine.process + passing)
    return [*rooms, Room("memory of the CPU", host, machine.host_total, machine.host_free)]


def shares(memory: Memory, machine: Machine) -> str:
    """Say where the bytes are."""
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "activations": memory.activations,
        "optimizer": memory.slots,
        "average": memory.average,
    }
    if machine.device == "cpu":
        parts["Python and libraries"] = machine.process
    return ", ".join(f"{name} {size(num)}" for name, num in parts.items() if num)

"""The filter's program, run by a small interpreter of the kernel's instructions, for the machine at hand and for the other one.

test_sandbox.py shows that the kernel takes it; here is what it says to each call.
"""

from __future__ import annotations

import errno
import struct

import pytest

from rewards.sandbox.syscall_filter import ALLOW, ARCHITECTURES, ERROR, KILL, REFUSED, syscall_filter

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
FORBIDDEN = ERROR | errno.EPERM
NUMBERS = {
    "x86_64": {"read": 0, "write": 1, "clone": 56, "fork": 57, "execve": 59, "socket": 41, "socketpair": 53, "clone3": 435, "openat": 257},
    "aarch64": {"read": 63, "write": 64, "clone": 220, "execve": 221, "socket": 198, "socketpair": 199, "clone3": 435, "openat": 56},
}
PTHREAD_FLAGS = 0x3D0F00
"""With which the C library makes a thread."""


def says(machine: str, number: int, argument: int = 0, architecture: int | None = None) -> int:
    """What the filter returns for a call (seccomp(2), `struct seccomp_data`)."""
    program = list(struct.iter_unpack("=HBBI", syscall_filter(machine)))
    data = struct.pack("=IIQ6Q", number, architecture or AUDIT_ARCH[machine], 0, argument, 0, 0, 0, 0, 0)
    position = accumulator = 0
    while True:
        code, if_true, if_false, operand = program[position]
        position += 1
        match code:
            case 0x06:  # BPF_RET | BPF_K
                return operand
            case 0x20:  # BPF_LD | BPF_W | BPF_ABS
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
                position += if_true if accumulator == operand else if_false
            case 0x35:  # BPF_JMP | BPF_JGE | BPF_K
                position += if_true if accumulator >= operand else if_false
            case 0x45:  # BPF_JMP | BPF_JSET | BPF_K
                position += if_true if accumulator & operand else if_false
            case _:
                pytest.fail(f"unknown instruction {code:#x}")


@pytest.mark.parametrize("machine", ARCHITECTURES)
class TestOn:
    def test_ordinary_calls_are_allowed(self, machine: str) -> None:
        for name, number in NUMBERS[machine].items():
            if name not in ("socket", "clone3"):
                assert says(machine, number) == ALLOW, name

    def test_each_listed_call_is_refused_and_no_other(self, machine: str) -> None:
        column = ARCHITECTURES[machine][0]
        refused = {numbers[column] for numbers in REFUSED.values()}
        assert {number for number in range(500) if says(machine, number) == FORBIDDEN} == refused

    def test_threads_and_forks_are_made_but_no_namespaces(self, machine: str) -> None:
        clone = NUMBERS[machine]["clone"]
        for flags in (17, PTHREAD_FLAGS, 0x4111):  # fork, pthread_create, vfork
            assert says(machine, clone, flags) == ALLOW
        for flag in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
            assert says(machine, clone, flag | 17) == FORBIDDEN
        assert says(machine, NUMBERS[machine]["clone3"]) == ERROR | errno.ENOSYS

    def test_sockets_are_unix_and_ip(self, machine: str) -> None:
        allowed = {family for family in range(50) if says(machine, NUMBERS[machine]["socket"], family) == ALLOW}
        assert allowed == {1, 2, 10}
        assert says(machine, NUMBERS[machine]["socket"], 40) == ERROR | errno.EAFNOSUPPORT

    def test_other_conventions_are_closed(self, machine: str) -> None:
        assert says(machine, 1, architecture=0x40000003) == KILL  # 32-bit x86
        assert says(machine, 1, architecture=0x40000028) == KILL  # 32-bit ARM
        assert says(machine, 0x40000000 | 101) == ERROR | errno.ENOSYS


def test_another_machine_has_no_filter() -> None:
    with pytest.raises(KeyError):
        syscall_filter("riscv64")

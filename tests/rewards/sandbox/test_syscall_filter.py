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
CALLS = ("read", "write", "clone", "execve", "socket", "socketpair", "clone3", "openat", "mmap", "setsockopt")
NUMBERS = {
    "x86_64": dict(zip(CALLS, (0, 1, 56, 59, 41, 53, 435, 257, 9, 54), strict=True)) | {"fork": 57},
    "aarch64": dict(zip(CALLS, (63, 64, 220, 221, 198, 199, 435, 56, 222, 208), strict=True)),
}
PTHREAD_FLAGS = 0x3D0F00
"""With which the C library makes a thread."""


def says(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the filter returns for a call (seccomp(2), `struct seccomp_data`)."""
    program = list(struct.iter_unpack("=HBBI", syscall_filter(machine)))
    data = struct.pack("=IIQ6Q", number, architecture or AUDIT_ARCH[machine], 0, *arguments, *[0] * (6 - len(arguments)))
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

    def test_sockets_are_unix_and_keep_their_size(self, machine: str) -> None:
        numbers = NUMBERS[machine]
        allowed = {family for family in range(50) if says(machine, numbers["socket"], family) == ALLOW}
        assert allowed == {1}
        assert says(machine, numbers["socket"], 40) == ERROR | errno.EAFNOSUPPORT
        refused = {option for option in range(50) if says(machine, numbers["setsockopt"], 3, 1, option) == FORBIDDEN}
        assert refused == {7}, "SO_SNDBUF"
        assert says(machine, numbers["setsockopt"], 3, 6, 7) == ALLOW, "another level's option of that number"

    def test_memory_is_shared_through_files_alone(self, machine: str) -> None:
        mmap = NUMBERS[machine]["mmap"]
        for flags in (0x01, 0x02, 0x03, 0x22, 0x20022):  # a file shared or private or validated; private memory, a thread's stack
            assert says(machine, mmap, 0, 4096, 3, flags, 5) == ALLOW, hex(flags)
        for flags in (0x21, 0x23, 0x40021):
            assert says(machine, mmap, 0, 4096, 3, flags, 5) == FORBIDDEN, hex(flags)

    def test_other_conventions_are_closed(self, machine: str) -> None:
        assert says(machine, 1, architecture=0x40000003) == KILL  # 32-bit x86
        assert says(machine, 1, architecture=0x40000028) == KILL  # 32-bit ARM
        assert says(machine, 0x40000000 | 101) == ERROR | errno.ENOSYS


def test_another_machine_has_no_filter() -> None:
    with pytest.raises(KeyError):
        syscall_filter("riscv64")

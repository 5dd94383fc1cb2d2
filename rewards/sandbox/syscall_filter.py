"""The seccomp filter of the jail: which system calls the kernel refuses to a model's program. Made without libseccomp.

Namespaces hide the host's files, processes and networks. This filter refuses what they do not cover:

- sockets other than UNIX ones: in a virtual machine a VSOCK reaches the host, past the network namespace; and the buffers of IP sockets
  grow in the kernel's memory, while those of UNIX sockets keep the size that the jail counts for each;
- io_uring: its operations are no system calls, so no filter sees them;
- memory that belongs to no process, which the watch over memory cannot see: shared memory without a file, memfd, System V IPC, message
  queues, pages given to a pipe, queues of inotify;
- new namespaces, mounts, tracing, keyrings, BPF: most escapes from containers were found in these parts of the kernel.

The filter is a program for the kernel's packet filter (classic BPF): a list of instructions of 8 bytes, which the kernel runs at every
system call. It can load a 4-byte word of the call (its number, the architecture, half of an argument), compare it, jump forward, and
return a decision:

    wrong architecture?        kill the process
    number has the X32 bit?    ENOSYS
    number in REFUSED?         EPERM
    clone3?                    ENOSYS
    clone                      EPERM if its flags ask for a new namespace
    mmap                       EPERM if shared and without a file
    setsockopt                 EPERM if it sets the size of the send buffer
    socket                     EAFNOSUPPORT unless it is a UNIX socket
    anything else              allow

Source: seccomp(2) and linux/filter.h; the numbers are those of asm/unistd_64.h and asm-generic/unistd.h.
"""

from __future__ import annotations

import errno
import platform
import struct

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine -> its column in the tables below, and the number by which the kernel calls it (AUDIT_ARCH)."""

REFUSED = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "inotify_init": (253, 26),
    "inotify_init1": (294, 26),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setns": (308, 268),
    "shmget": (29, 194),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vmsplice": (278, 75),
}
CLONE, CLONE3, SOCKET, SETSOCKOPT, MMAP = (56, 220), (435, 435), (41, 198), (54, 208), (9, 222)

NEW_NAMESPACES = 0x7E020080
"""Flags of clone: CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET and TIME. In clone(2) the bit of TIME belongs to the exit signal's number,
but no valid signal has it."""

AF_UNIX, SOL_SOCKET, SO_SNDBUF = 1, 1, 7
MAP_SHARED, MAP_ANONYMOUS = 0x01, 0x20
"""Flags of mmap(2); MAP_SHARED_VALIDATE contains MAP_SHARED. Pages shared without a file exist even while no process's memory has them."""

X32 = 0x40000000
"""Bit of the numbers of x86-64's second calling convention (x32). A comparison with the ordinary numbers would miss them."""

# instruction codes of linux/filter.h: BPF_LD+W+ABS, BPF_JMP+JEQ+K, +JGE, +JSET, BPF_RET
LOAD, JUMP_EQUAL, JUMP_ABOVE, JUMP_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# byte offsets in struct seccomp_data; of an argument the lower half
NUMBER, ARCHITECTURE, FIRST_ARGUMENT, SECOND_ARGUMENT, THIRD_ARGUMENT, FOURTH_ARGUMENT = 0, 4, 16, 24, 32, 40
# decisions: SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_ERRNO (plus the errno), SECCOMP_RET_ALLOW
KILL, ERROR, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000


def syscall_filter(machine: str = platform.machine()) -> bytes:
    """The bytes that bubblewrap's --seccomp reads.

    Raises:
        KeyError: `machine` is not in ARCHITECTURES.
    """
    column, architecture = ARCHITECTURES[machine]
    refuse = _return(ERROR | errno.EPERM)
    program = [_load(ARCHITECTURE), _instruction(JUMP_EQUAL, architecture, 1, 0), _return(KILL), _load(NUMBER)]
    program += [_skip_unless(JUMP_ABOVE, X32), _return(ERROR | errno.ENOSYS)]
    for numbers in REFUSED.values():
        program += [_skip_unless(JUMP_EQUAL, numbers[column]), refuse]
    # clone3 passes its flags by address, and a filter cannot read memory; told ENOSYS, the C library uses clone
    program += [_skip_unless(JUMP_EQUAL, CLONE3[column]), _return(ERROR | errno.ENOSYS)]
    program += [_skip_unless(JUMP_EQUAL, CLONE[column], 0, 4), _load(FIRST_ARGUMENT), _skip_unless(JUMP_BITS, NEW_NAMESPACES), refuse]
    program += [_return(ALLOW)]
    # the blocks below load an argument over the call's number: so each returns its own decision
    program += [_skip_unless(JUMP_EQUAL, MMAP[column], 0, 5), _load(FOURTH_ARGUMENT), _skip_unless(JUMP_BITS, MAP_ANONYMOUS, 0, 2)]
    program += [_skip_unless(JUMP_BITS, MAP_SHARED), refuse, _return(ALLOW)]
    program += [_skip_unless(JUMP_EQUAL, SETSOCKOPT[column], 0, 6), _load(SECOND_ARGUMENT), _skip_unless(JUMP_EQUAL, SOL_SOCKET, 0, 3)]
    program += [_load(THIRD_ARGUMENT), _skip_unless(JUMP_EQUAL, SO_SNDBUF), refuse, _return(ALLOW)]
    program += [_skip_unless(JUMP_EQUAL, SOCKET[column], 0, 3), _load(FIRST_ARGUMENT), _skip_unless(JUMP_EQUAL, AF_UNIX, 1, 0)]
    program += [_return(ERROR | errno.EAFNOSUPPORT), _return(ALLOW)]
    return b"".join(program)


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)


def _load(offset: int) -> bytes:
    return _instruction(LOAD, offset)


def _skip_unless(test: int, operand: int, if_true: int = 0, if_false: int = 1) -> bytes:
    """Run the next instruction if the test holds, otherwise skip it. The jumps say how many instructions are skipped in each case."""
    return _instruction(test, operand, if_true, if_false)


def _return(action: int) -> bytes:
    return _instruction(RETURN, action)

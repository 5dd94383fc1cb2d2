"""The jail under attack, by programs such as a model might write. What is protected:

1. Nothing of the host is seen, written, reached over a network, or signalled.
2. A program that uses more than its limits is stopped, alone, and the result says which limit it was.

Each runs twice: as the user of the tests, and, where that is root, as an ordinary user, for whom the kernel's rules differ.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest

from tests.rewards.jails import COUNT_PROCESSES, SLACK_S, Here

pytestmark = pytest.mark.usefixtures("nothing_is_left")

# ---------------------------------------------------------------------------------------------------------------- 1. the host


class World(NamedTuple):
    """What a program would like to reach: on this host, and with the rights of whom the jail runs for."""

    port: int
    path: str
    name: str
    token: str
    pid: int


@pytest.fixture
def world(jail: Here) -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
    folder.chmod(0o755)
    secret = folder / "token"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    os.chown(secret, jail.uid, -1)
    name = f"\0rc-{uuid4().hex}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as by_path,
        socket.socket(socket.AF_UNIX) as by_name,
        subprocess.Popen(["sleep", "600"], env={"TOKEN": "s3cret"}, user=jail.uid) as victim,
    ):
        by_path.bind(f"{folder}/s")
        os.chmod(f"{folder}/s", 0o777)
        by_name.bind(name)
        by_path.listen()
        by_name.listen()
        yield World(tcp.getsockname()[1], f"{folder}/s", name, str(secret), victim.pid)
        assert victim.poll() is None
        victim.kill()
    shutil.rmtree(folder)


REACH = {
    "tcp": "import socket; socket.create_connection(('127.0.0.1', {world.port}), 2)",
    "unix socket": "import socket; socket.socket(socket.AF_UNIX).connect({world.path!r})",
    "abstract socket": "import socket; socket.socket(socket.AF_UNIX).connect({world.name!r})",
    "token": "open({world.token!r}).read()",
    "token through a link": "import os; os.symlink({world.token!r}, 'link-' + str(os.getpid())); open('link-' + str(os.getpid())).read()",
    "environment of a process": "assert b's3cret' in open('/proc/{world.pid}/environ', 'rb').read()",
    "root of a process": "import os; os.listdir('/proc/{world.pid}/root/')",
    "signal": "import os; os.kill({world.pid}, 0)",
    "home": "import os; assert set(os.listdir({home!r})) > {{'.bashrc'}} or len(os.listdir({home!r})) > 1",
    "accounts": "open('/etc/passwd').read()",
    "system": "import os; os.listdir('/sys/class')",
}


@pytest.mark.parametrize("what", REACH)
def test_nothing_of_the_host_is_reached(jail: Here, world: World, what: str, tmp_path: Path) -> None:
    code = REACH[what].format(world=world, home=str(Path.home())) + "\nprint('reached')"
    if jail.name == "here":
        outside = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert outside.stdout == "reached\n", f"the attack itself does not work: {outside.stderr}"
    result = jail.python(code)
    assert (result.stdout, result.exit_code) == ("", 1)
    assert "Error" in result.stderr


def test_there_is_no_network(jail: Here) -> None:
    code = """
import socket
for family in (socket.AF_INET, socket.AF_INET6):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            socket.socket(family, kind)
        except OSError as error:
            print(error.errno)
print([line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]])
"""
    assert jail.python(code).stdout == "97\n97\n97\n97\n['lo']\n"  # EAFNOSUPPORT


def test_secrets_in_the_environment_stay_outside(jail: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "s3cret")
    code = """
import os, glob
seen = []
for file in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
    try:
        seen.append(b"s3cret" in open(file, "rb").read())
    except PermissionError:  # process 1, where it is root's
        assert file == "/proc/1/environ"
print(sorted(os.environ), sum(seen), 3 <= len(seen) <= 6, os.listdir("/proc/self/fd"))
"""
    result = jail.python(code)
    assert result.stdout == "['HOME', 'LANG', 'PATH', 'PWD', 'TMPDIR'] 0 True ['0', '1', '2', '3']\n", result.stderr


def test_nothing_outside_scratch_can_be_written(jail: Here) -> None:
    code = """
import os
found = {folder for folder, _, _ in os.walk("/") if not folder.startswith("/proc") and os.access(folder, os.W_OK)}
for path in ("/usr/x", "/etc/x", "/dev/x", "/x", "/dev/shm/../x", "/proc/sys/kernel/hostname", "/proc/sys/vm/overcommit_memory",
             "/usr/bin/env", os.__file__, os.path.dirname(os.__file__) + "/site-packages/x", "/proc/1/oom_score_adj", "/proc/sysrq-trigger"):
    try:
        open(path, "a").close()
        found.add(path)
    except OSError:
        pass
print(sorted(found - {"/proc/1/oom_score_adj"}))
"""
    assert jail.python(code).stdout == "['/scratch']\n"


def test_it_has_no_rights(jail: Here) -> None:
    code = """
import os
def status(pid):
    return dict(line.split(":\\t") for line in open(f"/proc/{pid}/status").read().splitlines() if ":\\t" in line)
own = status("self")
print(os.getuid() != 0, os.getgid() != 0, own["CapInh"], own["CapPrm"], own["CapEff"], own["CapAmb"], own["NoNewPrivs"], own["Seccomp"])
print([group for group in os.getgroups() if group != os.getgid()], os.getsid(0), int(status(1)["CapPrm"], 16) & ~0xC0)
"""
    # the session is the jail's own, and process 1 has at most CAP_SETUID and CAP_SETGID
    assert jail.python(code).stdout == f"True True {' '.join(['0' * 16] * 4)} 1 2\n[] 1 0\n"


def test_its_namespaces_are_its_own(jail: Here) -> None:
    kinds = ["ipc", "mnt", "net", "pid", "uts"] + ["user"] * (jail.name == "nobody")
    code = f"import os\nfor kind in {kinds}: print(os.readlink(f'/proc/self/ns/{{kind}}'))"
    inside, outside = jail.python(code).stdout.split(), [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    assert [one != other for one, other in zip(inside, outside, strict=True)] == [True] * len(kinds)


SYSCALLS = {
    "user namespace": "libc.unshare(0x10000000)",
    "network namespace": "libc.unshare(0x40000000)",
    "clone into a user namespace": "libc.syscall(CLONE, 0x10000000 | 17, 0, 0, 0, 0)",
    "mount": "libc.mount(b'none', b'/scratch', b'tmpfs', 0, None)",
    "trace process 1": "libc.ptrace(16, 1, 0, 0)",
    "memory that is nobody's": "libc.memfd_create(b'x', 0)",
    "shared memory that is nobody's": "libc.shmget(0, 4096, 0o1600)",
    "shared memory without a file": "libc.mmap(0, 4096, 3, 0x21, -1, 0)",
    "shared memory without a file, validated": "libc.mmap(0, 4096, 3, 0x23, -1, 0)",
    "pages given to a pipe": "libc.vmsplice(1, b'', 0, 0)",
    "queues of file events": "libc.inotify_init1(0)",
    "a buffer of any size": "libc.setsockopt(__import__('socket').socketpair()[0].fileno(), 1, 7, b'0000', 4)",
    "message queue": "libc.msgget(0, 0o1600)",
    "io_uring": "libc.syscall(425, 1, ctypes.create_string_buffer(256))",
    "vsock": "libc.socket(40, 1, 0)",
    "netlink": "libc.socket(16, 3, 0)",
    "kernel crypto": "libc.socket(38, 5, 0)",
    "setuid": "libc.setuid(0)",
    "setgroups": "libc.setgroups(0, None)",
}


@pytest.mark.parametrize("name", SYSCALLS)
def test_the_kernel_refuses(jail: Here, name: str) -> None:
    code = f"""
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
CLONE = 56 if platform.machine() == "x86_64" else 220
print({SYSCALLS[name]}, ctypes.get_errno())
"""
    # EPERM, EAFNOSUPPORT for sockets, and EINVAL where a user namespace has no such user
    errors = ["-1 97\n"] if "libc.socket" in SYSCALLS[name] else ["-1 1\n", "-1 22\n"] if name == "setuid" else ["-1 1\n"]
    assert jail.python(code).stdout in errors


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the other system call table is that of 32-bit x86")
def test_the_other_system_call_table_is_closed(jail: Here) -> None:
    code = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE, prot=7)
code.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
"""
    result = jail.python(code)
    # SIGSYS from the filter; SIGSEGV where the kernel has no such table
    assert (result.stdout, result.ending) == ("", "signal")
    assert result.exit_code in (128 + signal.SIGSYS, 128 + signal.SIGSEGV)


def test_its_own_process_1_cannot_be_ended(jail: Here) -> None:
    code = """
import os
for pid, number in ((1, 9), (1, 15), (1, 19), (1, 11), (-1, 9)):
    try:
        os.kill(pid, number)
    except OSError:  # EPERM where it is root's
        pass
print("alive", os.path.exists("/proc/1/status"))
"""
    assert jail.python(code).stdout == "alive True\n"


def test_open_files_are_counted(jail: Here) -> None:
    result = jail.python("import os\nwhile True: print(os.dup(0), flush=True)")
    assert "Too many open files" in result.stderr
    assert result.stdout.split()[-1] == "63"


def test_standard_input_cannot_be_written(jail: Here) -> None:
    code = """
import os
for opened in (lambda: 0, lambda: os.open("/proc/self/fd/0", os.O_RDWR)):
    try:
        os.write(opened(), b"x")
    except OSError as error:
        print(error.errno)
"""
    assert jail.python(code, stdin="abc").stdout == "1\n1\n"


# ---------------------------------------------------------------------------------------------------------------- 2. limits


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(600)",
        "import signal, time\nfor n in range(1, 32):\n  if n not in (9, 19): signal.signal(n, signal.SIG_IGN)\nwhile True: time.sleep(1)",
        "import os, time\nos.close(1); os.close(2)\ntime.sleep(600)",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "input()\nwhile True: print(1, flush=True, end='')\n",
    ],
)
def test_the_wall_clock_ends_it(jail: Here, code: str) -> None:
    result = jail.python(code, limits={"wall_s": 0.5, "output_bytes": 1 << 30}, stdin="x" * (4 << 20))
    assert (result.exit_code, result.ending, result.ok) == (128 + signal.SIGKILL, "timeout", False)
    assert 0.5 <= result.wall_s < 0.5 + SLACK_S


def test_what_it_had_printed_before_a_timeout_is_there(jail: Here) -> None:
    result = jail.python("import time; print('so far', flush=True); time.sleep(600)", limits={"wall_s": 0.5})
    assert (result.stdout, result.ending) == ("so far\n", "timeout")


def test_the_processor_clock_ends_it(jail: Here) -> None:
    result = jail.python("while True: pass", limits={"wall_s": 30.0, "cpu_s": 0.6})
    assert (result.ending, result.exit_code) == ("timeout", 128 + signal.SIGXCPU)
    assert 0.9 <= result.wall_s < 1.5 + SLACK_S, "rounded up to a second"


COUNT_THREADS = """
import os, threading, time
n = 0
try:
    while True:
        threading.Thread(target=time.sleep, args=(600,)).start()
        n += 1
except RuntimeError:
    print(n, flush=True)
    os._exit(0)
"""


@pytest.mark.parametrize("count", [COUNT_PROCESSES, COUNT_THREADS])
def test_processes_and_threads_are_counted(jail: Here, count: str) -> None:
    limits = {"processes": 20, "memory_bytes": 2 << 30}  # an address space that holds the stacks of 20 threads
    result = jail.python(count, limits=limits)
    assert (result.stdout, result.ending) == ("19\n", "exited"), "20 with the program itself"


def test_a_fork_bomb_ends(jail: Here) -> None:
    result = jail.python("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", limits={"wall_s": 1.0})
    assert result.ending == "timeout"


def test_one_allocation_fails(jail: Here) -> None:
    result = jail.python("x = bytearray(4 << 30)")
    assert (result.exit_code, result.ending) == (1, "exited")
    assert "MemoryError" in result.stderr


MUCH_MEMORY = {
    "together": "import os, time\nfor _ in range(8):\n  if os.fork() == 0:\n    x = b'x' * (40 << 20); time.sleep(600)\ntime.sleep(600)",
    "undumpable": "import ctypes, os, time\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\nfor _ in range(8):\n  if os.fork() == 0:\n"
    "    x = b'x' * (40 << 20); time.sleep(600)\ntime.sleep(600)",
    "from threads": "import os, threading, time\ndef work():\n  if os.fork() == 0:\n    x = b'x' * (40 << 20); time.sleep(600)\n  time.sleep(600)\n"
    "for _ in range(8): threading.Thread(target=work).start()",
    "orphans": "import os, time\nfor _ in range(8):\n  if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
    "      x = b'x' * (40 << 20); time.sleep(600)\n    os._exit(0)\ntime.sleep(600)",
    "sockets": "import os, socket, time\nfor _ in range(15):\n  if os.fork() == 0: break\nheld = [socket.socketpair() for _ in range(29)]\n"
    "for one, other in held:\n  for end in (one, other):\n    end.setblocking(False)\n    try:\n      while True: end.send(bytes(1 << 16))\n"
    "    except BlockingIOError: pass\ntime.sleep(600)",
    "empty files": "i = 0\nwhile True:\n  open(str(i), 'w').close(); i += 1",
}


@pytest.mark.parametrize("how", MUCH_MEMORY)
def test_memory_of_all_together_is_watched(jail: Here, how: str) -> None:
    result = jail.python(MUCH_MEMORY[how], limits={"wall_s": 20.0, "memory_bytes": 200 << 20})
    assert (result.ending, result.exit_code) == ("memory", 128 + signal.SIGKILL), result


def test_memory_that_forks_share_counts_once(jail: Here) -> None:
    code = "import os, time\nx = b'x' * (100 << 20)\nfor _ in range(8):\n  if os.fork() == 0: time.sleep(600)\ntime.sleep(0.5); print(1)"
    assert jail.python(code, limits={"memory_bytes": 200 << 20}).stdout == "1\n"


def test_zeros_can_be_read_but_not_shared(jail: Here) -> None:
    code = """
import mmap
print(open("/dev/zero", "rb").read(3))
try:
    with open("/dev/zero", "rb") as zeros:
        mmap.mmap(zeros.fileno(), 4096, prot=mmap.PROT_READ)
except OSError as error:
    print(error.errno)
"""
    assert jail.python(code).stdout == "b'\\x00\\x00\\x00'\n19\n"  # ENODEV


def test_ordinary_programs_share_memory_and_talk(jail: Here) -> None:
    code = """
import asyncio, mmap, subprocess, threading
with open("f", "wb+") as file:
    file.write(bytes(4096)); file.flush()
    view = mmap.mmap(file.fileno(), 0); view[0] = 7; view.flush()
    print(open("f", "rb").read(1), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)[0])
async def shout():
    process = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return (await process.communicate(b"loud"))[0]
print(asyncio.run(shout()))
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
"""
    result = jail.python(code)
    assert result.stdout == "b'\\x07' 7\nb'loud'\nthread\n", result.stderr


def test_a_file_has_a_size(jail: Here) -> None:
    result = jail.python("open('f', 'wb').write(bytes(17 << 20))")
    assert "File too large" in result.stderr


def test_scratch_has_a_size(jail: Here) -> None:
    result = jail.python("for i in range(100): open(str(i), 'wb').write(bytes(1 << 20)); print(i)")
    assert "No space left on device" in result.stderr
    assert 60 <= int(result.stdout.split()[-1]) < 64


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_has_a_size(jail: Here, stream: str) -> None:
    result = jail.python(f"import sys\nfor _ in range(1000): sys.{stream}.write('x' * 100_000)", limits={"output_bytes": 1 << 20})
    assert (result.ending, result.exit_code) == ("output", 128 + signal.SIGKILL)
    assert len(getattr(result, stream)) == 1 << 20


def test_output_that_is_only_just_too_much_is_told_at_the_end() -> None:
    result = Here().python("print('x' * 1000)", limits={"output_bytes": 1000})
    assert (result.ending, len(result.stdout), result.ok) == ("output", 1000, False)
    assert Here().python("print('x' * 999)", limits={"output_bytes": 1000}).ok


def test_huge_input_is_read_or_not(jail: Here) -> None:
    huge = "line\n" * (4 << 20)
    assert jail.python("print('unread')", stdin=huge).stdout == "unread\n"
    assert jail.python("import sys; print(sum(map(len, sys.stdin)))", stdin=huge).stdout == f"{len(huge)}\n"

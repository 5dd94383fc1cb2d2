"""A jail for code that a model wrote: no network, no files but a scratch folder of its own, no secrets, hard limits.

Bubblewrap gives each run namespaces of its own:

    host                                    the jail sees
    /usr, /bin, /lib ...                    the same, read-only
    this Python, without site-packages      the same, read-only
    everything else on disk                 nothing
    --                                      /scratch: 64 MiB in memory, gone after the run; /tmp is a link to it
    network                                 an empty network
    processes                               those of this run alone (drawing in jail_process.py)
    environment                             PATH, HOME, TMPDIR, LANG

The program has no privileges. Where rollcast runs as root, it has a user id of its own. A filter refuses the system calls that reach
around namespaces (syscall_filter.py). On a host that cannot do all of this, no program runs: SandboxError says what to install.

A program can still learn the machine's kernel, processors and memory size from /proc, read what everybody may read in /usr, and use
its limits to the full.

Standard library only: this runs in grader processes.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shlex
import shutil
import stat
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path, PurePosixPath

from configs.contracts.errors import SandboxError
from rewards.sandbox.jail_process import ENVIRONMENT, Ending, Limits, Result, execute
from rewards.sandbox.syscall_filter import ARCHITECTURES, syscall_filter

__all__ = ["PYTHON", "Ending", "Limits", "Result", "Sandbox", "available_compiler"]

_PYTHON_NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"

PYTHON: tuple[str, ...] = (f"{sys.base_prefix}/bin/{_PYTHON_NAME}", "-s", "-B")
"""The interpreter inside the jail: `run([*PYTHON, "main.py"], files={"main.py": code})`. It finds the standard library and /scratch."""

SCRATCH_BYTES = 64 << 20

SYSTEM_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""On some systems they are links into /usr, on others folders."""

FIRST_UID, UIDS = 40_000, 20_000
"""User ids of programs where rollcast is root: above those of people, below those of systemd, and within a container's usual 65,536."""

NAMESPACES = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")


FIRST_PROCESS = 'ulimit -f "$1"; shift; exec 3>&2 2>/dev/null; (exec "$@" 2>&3 3>&-); exit $?'
"""The script of process 1. It limits the size of files (bubblewrap has written ours by then), runs the program, becomes the parent of
orphans, and exits with the program's code. The shell's own messages about signals go to /dev/null.

Where rollcast is root, process 1 stays root, with no right but to change its user. As another user it could not be killed by the monitor,
which is root without rights too."""

COPY = """
[ -f {path} ] && [ ! -L {path} ] || {{ echo {path} is no regular file >&2; exit 1; }}
cat {path} > /proc/self/fd/{fd} || exit"""
"""Copies an output of the compiler to a descriptor that was opened outside. No program outside ever opens a path that the jail has made:
it could be a link to a file of the host."""

BLOCK_BYTES = 512
"""Unit of `ulimit -f`."""


class Sandbox:
    """Runs programs in jails, one jail for each run. Safe to use from several threads."""

    @staticmethod
    def check() -> None:
        """Run a short Python program in a jail. Only the first call of a process does so.

        Raises:
            SandboxError: this host cannot jail; the message says what is missing and what to install.
        """
        _check()

    def run(
        self,
        command: Sequence[str],
        *,
        files: Mapping[str, str | bytes] = {},
        stdin: str | bytes = "",
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        bind: Mapping[str, Path] = {},
    ) -> Result:
        """Run a program in a jail, in the folder /scratch. When this returns, no process of the jail is left.

        Args:
            command: program and arguments, with paths as they are inside.
            files: name -> content. They are put into /scratch, executable and write-protected. The program may delete them: the
                folder is its own.
            stdin: content of the program's standard input.
            limits: the limits of this run.
            bind: path inside -> folder of this host. The folder is visible there, read-only.

        Raises:
            SandboxError: the jail could not be made.
            ValueError: a name leaves /scratch, or the files do not fit into it.
        """
        return _execute(command, files, stdin, limits, bind)

    def compile(
        self, command: Sequence[str], *, files: Mapping[str, str | bytes], outputs: Sequence[str], into: Path, limits: Limits
    ) -> Result:
        """Run a compiler in a jail. If it succeeds, copy its outputs to the folder `into`.

        Only regular files are copied, never what a link points to, and none over `limits.file_bytes`. If an output is missing, the
        result is not ok.

        Args:
            command: compiler and arguments. It runs in /scratch.
            files: name -> content, put into /scratch.
            outputs: names of files in /scratch. They are executable in `into`.
            into: folder of this host.
            limits: the limits of this run.

        Raises:
            SandboxError: the jail could not be made.
            ValueError: a name leaves /scratch, or an output is not a plain name.
        """
        for name in outputs:
            if name != os.path.basename(name) or name in ("", ".", ".."):
                raise ValueError(f"output {name!r} is not a plain file name; compile into /scratch itself")
        with ExitStack() as closing:
            fds = {name: closing.enter_context(_MemoryFile(name)) for name in outputs}
            script = "\n".join(
                [f"{shlex.join(command)} || exit", *(COPY.format(path=shlex.quote(f"./{name}"), fd=fds[name]) for name in fds)]
            )
            result = _execute(["/bin/sh", "-c", script], files, "", limits, {}, tuple(fds.values()))
            if result.ok:
                for name, fd in fds.items():
                    _save(fd, into / name)
        return result


def available_compiler() -> str | None:
    """The path of a C++ compiler that the jail can see, or None."""
    for name in ("g++", "clang++"):
        if path := shutil.which(name, path=ENVIRONMENT["PATH"]):
            return path
    return None


# ------------------------------------------------------------------------------------------------------------ what the jail sees


def _execute(
    command: Sequence[str],
    files: Mapping[str, str | bytes],
    stdin: str | bytes,
    limits: Limits,
    bind: Mapping[str, Path],
    inherited: tuple[int, ...] = (),
) -> Result:
    with ExitStack() as closing:
        contents = {_scratch_path(name): closing.enter_context(_SealedFile(content)) for name, content in files.items()}
        written_bytes = sum(os.fstat(fd).st_size for fd in contents.values())
        if written_bytes > SCRATCH_BYTES:
            raise ValueError(f"the files have {written_bytes} bytes, and /scratch holds {SCRATCH_BYTES}; use stdin, or bind a folder")
        filter_fd = closing.enter_context(_SealedFile(syscall_filter()))
        options = [
            *_view(),
            *(option for inside, folder in bind.items() for option in _bind(inside, folder)),
            *("--perms", "1777", "--size", str(SCRATCH_BYTES), "--tmpfs", "/scratch"),
            *(option for path, fd in contents.items() for option in ("--perms", "0555", "--file", str(fd), path)),
            *("--remount-ro", "/", "--chdir", "/scratch", "--seccomp", str(filter_fd)),
        ]
        first = ["/bin/sh", "-c", FIRST_PROCESS, "sh", str(-(-limits.file_bytes // BLOCK_BYTES))]
        descriptors = (filter_fd, *contents.values(), *inherited)
        stdin_fd = closing.enter_context(_SealedFile(stdin))
        return execute([_find_bwrap(), *options], [*first, *_drop_root(), *command], descriptors, stdin_fd, limits)


@cache
def _view() -> tuple[str, ...]:
    """The options that are the same for every run: namespaces, and everything visible except /scratch."""
    options = ["--die-with-parent", "--new-session", *NAMESPACES, "--hostname", "jail", "--cap-drop", "ALL"]
    options += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if os.geteuid() == 0 else ["--unshare-user"]
    options += ["--ro-bind", "/usr", "/usr"]
    for name in SYSTEM_FOLDERS:
        if os.path.islink(f"/{name}"):
            options += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            options += ["--ro-bind", f"/{name}", f"/{name}"]
    for path in ("/etc/ld.so.cache", "/etc/alternatives"):
        if os.path.exists(path):
            options += ["--perms", "0755", "--dir", "/etc", "--ro-bind", path, path]
    return (*options, *_python_view(), *_device_view(), "--symlink", "/scratch", "/tmp")


def _python_view() -> Iterator[str]:
    """Show the interpreter and its standard library, and nothing else of their folder: it may be in somebody's home."""
    prefix = Path(sys.base_prefix)
    if not prefix.is_relative_to("/usr"):
        for folder in (prefix / "bin", prefix / "lib", prefix / "lib64"):
            if folder.is_dir():
                yield from _bind(str(folder), folder)
    libraries = [Path(root, library) for root in {sys.base_prefix, "/usr/local"} for library in {"lib", sys.platlibdir}]
    packages = [library / _PYTHON_NAME / name for library in libraries for name in ("site-packages", "dist-packages")]
    for folder in (*packages, Path("/usr/lib/python3/dist-packages")):
        if folder.is_dir():
            yield from ("--tmpfs", str(folder), "--remount-ro", str(folder))


def _device_view() -> Iterator[str]:
    yield from ("--proc", "/proc", "--dir", "/dev")
    for name in ("null", "full", "random", "urandom"):
        yield from ("--dev-bind", f"/dev/{name}", f"/dev/{name}")
    links = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
    # /dev/full reads as zeros too, but cannot be mapped: memory shared through /dev/zero would be nobody's
    for name, target in (links | {"shm": "/scratch", "zero": "full"}).items():
        yield from ("--symlink", target, f"/dev/{name}")


def _bind(inside: str, folder: Path) -> Iterator[str]:
    """Options that show a folder read-only. The jail's user can reach it even where the host's own parents of it are closed to others."""
    for parent in reversed(PurePosixPath(inside).parents[:-1]):
        yield from ("--perms", "0755", "--dir", str(parent))
    if os.geteuid() == 0 and not _open_to_others(folder):
        yield from ("--perms", "0755", "--dir", inside)
        for entry in folder.iterdir():
            yield from ("--ro-bind", str(entry), f"{inside}/{entry.name}")
    else:
        yield from ("--ro-bind", str(folder), inside)


def _open_to_others(folder: Path) -> bool:
    wanted = stat.S_IROTH | stat.S_IXOTH
    return folder.stat().st_mode & wanted == wanted


def _drop_root() -> tuple[str, ...]:
    """A command that changes to a user id of this run alone, needed if bubblewrap runs as root: the kernel counts processes by user id."""
    if os.geteuid() != 0:
        return ()
    uid = FIRST_UID + threading.get_native_id() % UIDS
    return ("/usr/bin/setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all", "--")


def _scratch_path(name: str) -> str:
    path = PurePosixPath("/scratch", name)
    if not path.is_relative_to("/scratch") or ".." in path.parts or path == PurePosixPath("/scratch"):
        raise ValueError(f"file name {name!r} leaves /scratch; use a relative path without ..")
    return str(path)


# ------------------------------------------------------------------------------------------------------------ files in memory


class _MemoryFile:
    """Context manager: the descriptor of an empty file in memory."""

    def __init__(self, name: str) -> None:
        made = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._fd = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, 10)  # 10 or more: process 1, a shell, uses 3
        os.close(made)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class _SealedFile(_MemoryFile):
    """Context manager: the descriptor of a file in memory whose content nobody can change."""

    def __init__(self, content: str | bytes) -> None:
        super().__init__("content")
        data = memoryview(content.encode(errors="replace") if isinstance(content, str) else content)
        while data:
            data = data[os.write(self._fd, data) :]
        os.lseek(self._fd, 0, os.SEEK_SET)
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)


def _save(fd: int, path: Path) -> None:
    with open(fd, "rb", closefd=False) as source, open(path, "wb") as target:
        source.seek(0)
        shutil.copyfileobj(source, target)
    path.chmod(0o755)


# ------------------------------------------------------------------------------------------------------------ can this host jail?


INSTALL = "Install it on every node: `apt-get install bubblewrap` or `dnf install bubblewrap`"

REFUSING_SETTINGS = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
)
"""Kernel settings that forbid jails to ordinary users: the file, the forbidding value, and the command by which root allows them."""


def _find_bwrap() -> str:
    """The path of bwrap: from PATH, or beside this Python, where the set-up of `.venv` puts it."""
    beside = os.path.join(os.path.dirname(sys.executable), "bwrap")
    found = shutil.which("bwrap") or shutil.which(beside)
    if found is None:
        raise SandboxError(f"a model's code runs only in a bubblewrap jail, and there is no bwrap on this host. {INSTALL}")
    return found


@cache
def _check() -> None:
    if platform.machine() not in ARCHITECTURES:
        known = " and ".join(ARCHITECTURES)
        raise SandboxError(
            f"a model's code cannot be jailed on {platform.machine()}: the numbers of its system calls are not known; use {known}"
        )
    if not os.path.exists(f"/proc/self/task/{threading.get_native_id()}/children"):
        raise SandboxError(
            "this kernel lacks CONFIG_PROC_CHILDREN, by which the memory of a model's code is watched; use a kernel that has it"
        )
    try:
        result = Sandbox().run([*PYTHON, "-c", "print('jailed')"])
    except SandboxError as error:
        raise SandboxError(f"{error.message}. {_remedy(error.message)}") from None
    if not (result.ok and result.stdout == "jailed\n"):
        raise SandboxError(f"Python does not run in a bubblewrap jail on this host: {result}. {_remedy(result.stderr)}")


def _remedy(said: str) -> str:
    if "Unknown option" in said:
        return f"Bubblewrap 0.7 or newer is needed, and {_find_bwrap()} is older"
    if "setpriv" in said:
        return (
            "Where rollcast runs as root, setpriv must be able to change the user: install util-linux, and allow CAP_SETUID and CAP_SETGID"
        )
    if os.geteuid() == 0:
        return (
            "In a container, start it by "
            "`docker run --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined`"
        )
    for path, value, remedy in REFUSING_SETTINGS:
        if os.path.exists(path) and Path(path).read_text().strip() == value:
            return f"Ordinary users may not make namespaces here; allow it as root by `{remedy}`"
    return "Allow namespaces for ordinary users (in a container by --security-opt seccomp=unconfined), and use Linux 5.14 or newer"

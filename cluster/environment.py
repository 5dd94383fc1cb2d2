"""Makes `.venv`, the one environment that every command of this repository runs in.

    python3 -I cluster/environment.py --extra auto --dev

Runs on any Python from 3.8 on with nothing but the standard library, because it runs before anything is installed. An environment that
is up to date costs a fraction of a second; one that could not be finished is never taken for a finished one and is made anew.
pip's own configuration (index, find-links, certificates, proxy) stays in force.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 11), (3, 14)
TORCH = "torch==2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA_ONLY = ("torchvision", "torchaudio", "torchcodec", "triton")
"""vLLM and its dependencies ask for these. An index that is not PyTorch's own serves CUDA builds, which break `import transformers` beside
a CPU torch."""

UPDATING = "updating"
"""Fingerprint of an environment that was finished once: without a network it stays, and is updated the next time."""

NEEDED_GB = {"cpu": 6, "gpu": 20}
"""Free disk space: the environment (3 GB without CUDA), pip's cache and what it unpacks on the way."""

VERIFY = """
import sys, torch, transformers, ray, deepspeed, vllm, configs.schema
extra = sys.argv[1]
if extra == "cpu" and torch.version.cuda:
    sys.exit(f"torch {torch.__version__} is a CUDA build, and this environment is for the CPU")
if extra == "gpu" and not torch.cuda.is_available():
    sys.exit(f"torch {torch.__version__} finds no usable GPU: the NVIDIA driver must support CUDA {torch.version.cuda}")
print(f"torch {torch.__version__}, transformers {transformers.__version__}, ray {ray.__version__}, deepspeed {deepspeed.__version__}")
"""

UNPACK_BUBBLEWRAP = """
cd "$1"
apt-get -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 download bubblewrap
dpkg-deb -x bubblewrap_*.deb .
usr/bin/bwrap --version
cp usr/bin/bwrap "$2"
"""

UNREACHABLE = "The package index cannot be reached. Check the network, and the proxy and index in `pip config list`."
REMEDIES = (
    ("No space left on device", "Free some disk space, or set TMPDIR and PIP_CACHE_DIR to a larger disk."),
    ("CERTIFICATE_VERIFY_FAILED", "Your network re-signs TLS: tell pip its certificate with `pip config set global.cert FILE`."),
    ("Failed to establish a new connection", UNREACHABLE),
    ("Temporary failure in name resolution", UNREACHABLE),
    ("NameResolutionError", UNREACHABLE),
    ("ProxyError", "The proxy refuses the package index. Check HTTPS_PROXY and `pip config list`."),
    ("Read timed out", "The package index is too slow. Run it again, or set PIP_DEFAULT_TIMEOUT=180: what was downloaded is kept."),
    ("No matching distribution found", "Your package index has no such version for this Python and machine. Check `pip config list`."),
    ("ResolutionImpossible", "constraints.txt and pyproject.toml disagree. Undo your change to one of them."),
    ("finds no usable GPU", "Update the NVIDIA driver, or use the CPU: make EXTRA=cpu ..."),
)
"""What to do, by a sign in the output; the first that fits. Network signs come before what pip concludes from them."""


class InstallError(Exception):
    """The environment could not be made. The message says what failed; `remedy` says what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


# ---------------------------------------------------------------------------------------------------------------- what is there


def has_gpu() -> bool:
    """Whether the NVIDIA driver lists a GPU."""
    if not shutil.which("nvidia-smi"):
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return listed.returncode == 0 and b"GPU " in listed.stdout


def find_python() -> str:
    """The Python to make the environment with: this one where its version fits, or another on the PATH.

    Raises:
        InstallError: no Python of a version that vLLM serves, or none that can make environments.
    """
    found = []
    names = [f"python3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)]
    # Not sys.executable: that may be the very `.venv` that is about to be replaced.
    for candidate in [getattr(sys, "_base_executable", sys.executable), *(shutil.which(name) for name in names)]:
        version = python_version(candidate) if candidate else None
        if candidate and version:
            if OLDEST <= version[:2] <= NEWEST and can_make_environments(candidate):
                return candidate
            found.append(f"{candidate} ({'.'.join(map(str, version))})")
    raise InstallError(
        f"found {', '.join(found) or 'no Python'}; Python 3.{OLDEST[1]} to 3.{NEWEST[1]} with the venv module is needed",
        f"Install one: `apt-get install python3.{OLDEST[1]} python3.{OLDEST[1]}-venv`, `pyenv install 3.{OLDEST[1]}`, or from python.org.",
    )


def python_version(python: str) -> tuple[int, ...] | None:
    """The version of an interpreter, or None where it does not run (a pyenv shim of a version that is not switched on)."""
    command = [python, "-c", "import sys; print(*sys.version_info[:3])"]
    told = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return tuple(map(int, told.stdout.split())) if told.returncode == 0 else None


def can_make_environments(python: str) -> bool:
    """Debian ships Python without these two modules until python3-venv is installed."""
    return subprocess.run([python, "-c", "import venv, ensurepip"], stderr=subprocess.DEVNULL, check=False).returncode == 0


class Stamp:
    """The note inside an environment that says what it was made from, and whether it was finished."""

    def __init__(self, venv: Path) -> None:
        self.path = venv / "rollcast.json"

    def read(self) -> dict[str, str]:
        """{"extra", "fingerprint"}; {} where there is no note; no fingerprint where the environment was not finished."""
        try:
            return json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}

    def write(self, extra: str, fingerprint: str = "") -> None:
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(json.dumps({"extra": extra, "fingerprint": fingerprint} if fingerprint else {"extra": extra}))


def fingerprint(root: Path, extra: str, dev: bool) -> str:
    """A hash of all that decides what is in the environment, its place included: environments cannot be moved."""
    digest = hashlib.sha256(json.dumps([str(root), extra, dev, venv_python(root)]).encode())
    for path in (root / "pyproject.toml", root / "constraints.txt", Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def venv_python(root: Path) -> str:
    """The Python version of the environment as it notes it itself; "" where it has no interpreter that runs."""
    if not os.access(str(root / ".venv" / "bin" / "python"), os.X_OK):
        return ""
    lines = (line.partition("=") for line in (root / ".venv" / "pyvenv.cfg").read_text().splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}.get("version", "")


# ---------------------------------------------------------------------------------------------------------------- making it


class Installation:
    """One making of the environment: numbered steps whose output goes to `.venv/install.log`."""

    def __init__(self, root: Path, extra: str, dev: bool) -> None:
        self.root, self.extra, self.dev = root, extra, dev
        self.venv = root / ".venv"
        self.log = self.venv / "install.log"
        self.python = str(self.venv / "bin" / "python")
        self.steps = 6 if extra == "cpu" else 4
        self.step = 0
        self.environ = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "DS_BUILD_OPS")}
        self.environ.update(DS_BUILD_OPS="0", PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_USER="0")

    def run(self) -> None:
        """All steps. Raises InstallError at the first that fails."""
        self.make_venv()
        if self.extra == "cpu":
            self.install_cpu_torch()
        wanted = f".[{self.extra}{',dev' if self.dev else ''}]"
        self.pip("Install rollcast, vLLM, Ray, DeepSpeed", "install", "-c", "constraints.txt", "-e", wanted)
        if self.extra == "cpu":
            self.pip("Remove CUDA builds that a CPU torch cannot load", "uninstall", "-y", *CUDA_ONLY)
        self.provide_bubblewrap()
        self.verify()

    def make_venv(self) -> None:
        """A new environment, or the one that is there if it is sound."""
        stamp = Stamp(self.venv)
        note, version = stamp.read(), venv_python(self.root)
        unfinished, other_extra = bool(note) and "fingerprint" not in note, note.get("extra", self.extra) != self.extra
        keep = version and not unfinished and not other_extra
        python = self.python if keep else find_python()
        if not keep and self.venv.exists():
            self.remove_venv(note)
        self.require_disk(keep=bool(keep))
        stamp.write(self.extra, UPDATING if keep else "")
        self.log.write_text("")
        make = [] if keep else [[python, "-m", "venv", str(self.venv)]]
        upgrade = [self.python, "-m", "pip", "install", "--upgrade", "pip"]
        self.execute(f"{'Update' if keep else 'Make'} .venv ({python})", *make, upgrade)

    def remove_venv(self, note: dict[str, str]) -> None:
        if not note and not (self.venv / "pyvenv.cfg").exists():
            raise InstallError(f"{self.venv} is no Python environment", "Move it away: that name is where the environment goes.")
        print("The .venv that is there was not finished, or is for other hardware: making it anew", flush=True)
        shutil.rmtree(str(self.venv))

    def require_disk(self, keep: bool) -> None:
        needed = 2 if keep else NEEDED_GB[self.extra]
        free = shutil.disk_usage(str(self.root)).free / 1e9
        if free < needed:
            raise InstallError(f"{free:.1f} GB are free on the disk of {self.root}; it takes {needed}", "Free some, or use another disk.")

    def install_cpu_torch(self) -> None:
        """The CPU build: from the user's own index where it has one, otherwise from PyTorch's."""
        wanted = f"{TORCH}+cpu"
        try:
            self.pip(f"Install {wanted}", "install", "--no-deps", wanted)
        except InstallError as error:
            if "No matching distribution found" not in str(error):
                raise
            print("Your package index has no CPU build of torch: taking PyTorch's own index", flush=True)
            self.step -= 1
            self.pip(f"Install {wanted} from {TORCH_CPU_INDEX}", "install", "--no-deps", "--index-url", TORCH_CPU_INDEX, wanted)

    def provide_bubblewrap(self) -> None:
        """The jail for code rewards: the system's, or Debian's unpacked into the environment. Without it all else works."""
        own = self.venv / "bin" / "bwrap"
        found = shutil.which("bwrap") or shutil.which(str(own))
        if found:
            self.execute(f"Find bubblewrap ({found})")
            return
        with tempfile.TemporaryDirectory(dir=str(self.venv)) as folder:
            try:
                self.execute("Unpack bubblewrap", ["sh", "-ec", UNPACK_BUBBLEWRAP, "sh", folder, str(own)])
            except InstallError:
                print(
                    "Rewards that run a model's code will be refused until you install bubblewrap:"
                    " `apt-get install bubblewrap` or `dnf install bubblewrap`. All else works.",
                    flush=True,
                )

    def verify(self) -> None:
        """Everything heavy imports, in one process. Run outside the root, so that rollcast itself must be installed."""
        if self.extra == "cpu":
            self.environ.update(DS_ACCELERATOR="cpu", TORCHDYNAMO_DISABLE="1")
        try:
            self.execute("Import everything once", [self.python, "-c", VERIFY, self.extra], cwd=self.venv)
        except InstallError:
            Stamp(self.venv).write(self.extra)
            raise

    def pip(self, title: str, *arguments: str) -> None:
        self.execute(title, [self.python, "-m", "pip", *arguments])

    def execute(self, title: str, *commands: list[str], cwd: Path | None = None) -> None:
        """One numbered step: commands in order, shown live, logged.

        Raises:
            InstallError: a command failed; the message ends with the last lines of its output.
        """
        self.step += 1
        line = Line(f"[{self.step}/{self.steps}] {title}")
        with open(str(self.log), "ab", buffering=0) as sink:
            for command in commands:
                sink.write(f"\n$ {' '.join(map(shlex.quote, command))}\n".encode())
                start = sink.tell()
                child = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, cwd=str(cwd or self.root), env=self.environ
                )
                try:
                    status = wait(child, line, self.log, start)
                finally:
                    child.kill()
                    child.wait()
                if status:
                    line.close("failed")
                    raise failure(title, status, output(self.log, start))
        line.close()


def wait(child: subprocess.Popen[bytes], line: Line, log: Path, start: int) -> int:
    """The exit status of a command; what it is doing is shown until then."""
    before = installed_packages(log.parent)
    while True:
        try:
            return child.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            line.show(doing(output(log, start), installed_packages(log.parent) - before))


def installed_packages(venv: Path) -> int:
    return sum(1 for _ in venv.glob("lib/python3*/site-packages/*.dist-info"))


def doing(text: str, installed: int) -> str:
    """The last line of a command's output; in pip's longest stage, of which it says nothing, how many packages are through."""
    rows = [row for row in text.splitlines() if not row.startswith("WARNING")]
    packages = next((row for row in rows if row.startswith("Installing collected packages")), "")
    if packages:
        return f"{installed} of {packages.count(',') + 1} packages installed"
    return rows[-1].strip() if rows else ""


def output(log: Path, start: int) -> str:
    """The end of what the log holds from byte `start` on."""
    with open(str(log), "rb") as stream:
        stream.seek(max(start, log.stat().st_size - 16384))
        return stream.read().decode(errors="replace").strip()


def failure(title: str, status: int, text: str) -> InstallError:
    remedy = next((remedy for sign, remedy in REMEDIES if sign in text), "The whole output is in .venv/install.log.")
    if status == -9:
        remedy = "The system ended it, most likely for want of memory: close other programs and run it again."
    tail = "\n".join(f"    {row[:400]}" for row in text.splitlines()[-15:])
    return InstallError(f"'{title}' ended with status {status}. Its last lines:\n{tail}", remedy)


class Line:
    """A step's line on the terminal, rewritten as it goes; where there is no terminal, a line now and then."""

    QUIET_S = 30.0

    def __init__(self, title: str) -> None:
        self.title = title
        self.started = self.shown = time.monotonic()
        self.live = sys.stdout.isatty()
        print(title, end="" if self.live else "\n", flush=True)

    def show(self, last_output: str) -> None:
        now = time.monotonic()
        elapsed = f"{now - self.started:5.0f} s"
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            print("\r\x1b[2K" + f"{self.title} {elapsed}  {last_output}"[:width], end="", flush=True)
        elif now - self.shown >= self.QUIET_S:
            self.shown = now
            print(f"      {elapsed}  {last_output[:100]}", flush=True)

    def close(self, word: str = "done") -> None:
        elapsed = time.monotonic() - self.started
        print(f"\r\x1b[2K{self.title}: {word}, {elapsed:.0f} s" if self.live else f"      {word}, {elapsed:.0f} s", flush=True)


# ---------------------------------------------------------------------------------------------------------------- the command


def ensure(root: Path, extra: str, dev: bool) -> None:
    """Make the environment, or bring it up to date, or do nothing.

    Raises:
        InstallError: it could not be made; what is there does not count as up to date.
    """
    import fcntl

    if (root / ".venv").is_symlink():
        print(".venv is a link: that environment is used as it is", flush=True)
        return
    with open(str(root / "pyproject.toml")) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another command is making .venv: waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = Stamp(root / ".venv")
        if venv_python(root) and stamp.read().get("fingerprint") == fingerprint(root, extra, dev):
            return
        started = time.monotonic()
        kind = "an NVIDIA GPU" if extra == "gpu" else "the CPU"
        print(f"Making the environment for {kind} in {root / '.venv'}: some minutes the first time. Log: .venv/install.log", flush=True)
        Installation(root, extra, dev).run()
        stamp.write(extra, fingerprint(root, extra, dev))
        print(f"The environment is ready: {time.monotonic() - started:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make .venv, or bring it up to date.")
    parser.add_argument("--extra", choices=["auto", "cpu", "gpu"], default="auto", help="hardware; auto looks for an NVIDIA GPU")
    parser.add_argument("--dev", action="store_true", help="also what tests and checks need")
    options = parser.parse_args()
    try:
        if not sys.platform.startswith("linux"):
            raise InstallError(f"this is {sys.platform}, and vLLM needs Linux", "Use a Linux machine, WSL 2 or a container.")
        extra = options.extra if options.extra != "auto" else "gpu" if has_gpu() else "cpu"
        ensure(ROOT, extra, options.dev)
    except InstallError as error:
        print(f"\nThe environment could not be made: {error}\n\n{error.remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; run the same command to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

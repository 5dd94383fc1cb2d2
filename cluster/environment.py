"""Make `.venv`, the one environment in which every command of this repository runs.

    python3 -I cluster/environment.py --extra auto --dev

It needs only the standard library of Python 3.8 or newer, because it runs before anything is installed. Checking an environment that is
up to date takes a fraction of a second. An unfinished environment is never used as a finished one: it is removed and made again.
pip's own configuration (index, find-links, certificates, proxy) applies.
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
"""Dependencies of vLLM. Any index but PyTorch's own serves their CUDA builds, which break `import transformers` beside a CPU torch."""

UPDATING = "updating"
"""Fingerprint of a finished environment during an update: if the update fails, as without a network, it is kept and updated next time."""

NEEDED_GB = {"cpu": 6, "gpu": 20}
"""Free disk space: for the environment (3 GB without CUDA), pip's cache and pip's temporary files."""

VERIFY = """
import sys, torch, transformers, ray, deepspeed, vllm, configs.schema
extra = sys.argv[1]
if extra == "cpu" and torch.version.cuda:
    sys.exit(f"torch {torch.__version__} is a CUDA build, but this environment is for the CPU")
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
    ("Read timed out", "The package index is slow. Run it again, or set PIP_DEFAULT_TIMEOUT=180; finished downloads are kept."),
    ("No matching distribution found", "Your package index has no such version for this Python and machine. Check `pip config list`."),
    ("ResolutionImpossible", "constraints.txt and pyproject.toml disagree. Undo your change to one of them."),
    ("finds no usable GPU", "Update the NVIDIA driver, or use the CPU: make EXTRA=cpu ..."),
)
"""(text in the output, remedy); the first that matches is shown. Network errors come before pip's conclusions from them."""


class InstallError(Exception):
    """The environment could not be made. The message names what failed, `remedy` what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


# ---------------------------------------------------------------------------------------------------------------- what exists


def has_gpu() -> bool:
    """Ask the NVIDIA driver for a GPU."""
    if not shutil.which("nvidia-smi"):
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return listed.returncode == 0 and b"GPU " in listed.stdout


def find_python() -> str:
    """Find the Python to make the environment with: this one if its version fits, or else another on the PATH.

    Raises:
        InstallError: no Python has a version that vLLM supports and can make environments.
    """
    found = []
    names = [f"python3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)]
    # Not sys.executable: it may belong to the `.venv` that is about to be replaced.
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
    """The version of an interpreter; None if it does not run, such as a pyenv shim of an inactive version."""
    command = [python, "-c", "import sys; print(*sys.version_info[:3])"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return tuple(map(int, ran.stdout.split())) if ran.returncode == 0 else None


def can_make_environments(python: str) -> bool:
    """Check for the modules `venv` and `ensurepip`: on Debian they come with python3-venv only."""
    return subprocess.run([python, "-c", "import venv, ensurepip"], stderr=subprocess.DEVNULL, check=False).returncode == 0


class Stamp:
    """A file in the environment: what the environment was made from, and whether it was finished."""

    def __init__(self, venv: Path) -> None:
        self.path = venv / "rollcast.json"

    def read(self) -> dict[str, str]:
        """Read {"extra", "fingerprint"}; the fingerprint is missing if the environment was not finished, and both if there is no file."""
        try:
            return json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}

    def write(self, extra: str, fingerprint: str = "") -> None:
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(json.dumps({"extra": extra, "fingerprint": fingerprint} if fingerprint else {"extra": extra}))


def fingerprint(root: Path, extra: str, dev: bool) -> str:
    """A hash of everything that decides the environment's contents; its path counts too, because environments cannot be moved."""
    digest = hashlib.sha256(json.dumps([str(root), extra, dev, venv_python(root)]).encode())
    for path in (root / "pyproject.toml", root / "constraints.txt", Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def venv_python(root: Path) -> str:
    """The Python version that the environment's own file names; "" if the environment has no interpreter."""
    if not os.access(str(root / ".venv" / "bin" / "python"), os.X_OK):
        return ""
    lines = (line.partition("=") for line in (root / ".venv" / "pyvenv.cfg").read_text().splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}.get("version", "")


# ---------------------------------------------------------------------------------------------------------------- installation


class Installation:
    """The numbered steps that make or update the environment; their output goes to `.venv/install.log`."""

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
        """Run all steps. Raises InstallError at the first that fails."""
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
        """Make a new environment, or keep the existing one if it was finished and is for the same hardware."""
        stamp = Stamp(self.venv)
        stamped, version = stamp.read(), venv_python(self.root)
        unfinished, other_extra = bool(stamped) and "fingerprint" not in stamped, stamped.get("extra", self.extra) != self.extra
        keep = version and not unfinished and not other_extra
        python = self.python if keep else find_python()
        if not keep and self.venv.exists():
            self.remove_venv(stamped)
        self.require_disk(keep=bool(keep))
        stamp.write(self.extra, UPDATING if keep else "")
        self.log.write_text("")
        make = [] if keep else [[python, "-m", "venv", str(self.venv)]]
        upgrade = [self.python, "-m", "pip", "install", "--upgrade", "pip"]
        self.execute(f"{'Update' if keep else 'Make'} .venv ({python})", *make, upgrade)

    def remove_venv(self, stamped: dict[str, str]) -> None:
        if not stamped and not (self.venv / "pyvenv.cfg").exists():
            raise InstallError(f"{self.venv} is not a Python environment", "Move it away: the environment gets that name.")
        print("The existing .venv is unfinished or for other hardware: making it again", flush=True)
        shutil.rmtree(str(self.venv))

    def require_disk(self, keep: bool) -> None:
        needed = 2 if keep else NEEDED_GB[self.extra]
        free = shutil.disk_usage(str(self.root)).free / 1e9
        if free < needed:
            raise InstallError(
                f"{free:.1f} GB are free on the disk of {self.root}; {needed} GB are needed", "Free some disk space, or use another disk."
            )

    def install_cpu_torch(self) -> None:
        """Install torch's CPU build from the user's package index, or from PyTorch's if that has none."""
        wanted = f"{TORCH}+cpu"
        try:
            self.pip(f"Install {wanted}", "install", "--no-deps", wanted)
        except InstallError as error:
            if "No matching distribution found" not in str(error):
                raise
            print("Your package index has no CPU build of torch: using PyTorch's own index", flush=True)
            self.step -= 1
            self.pip(f"Install {wanted} from {TORCH_CPU_INDEX}", "install", "--no-deps", "--index-url", TORCH_CPU_INDEX, wanted)

    def provide_bubblewrap(self) -> None:
        """Provide bubblewrap, the jail of code rewards: the system's, or Debian's unpacked into the environment. It is optional."""
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
                    " `apt-get install bubblewrap` or `dnf install bubblewrap`. Everything else works.",
                    flush=True,
                )

    def verify(self) -> None:
        """Import every heavy package in one process; outside the root, so that rollcast itself must be installed."""
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
        """Run one numbered step: its commands in order, shown live and logged.

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
    """Wait for a command, and show its progress; returns its exit status."""
    before = installed_packages(log.parent)
    while True:
        try:
            return child.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            line.show(progress(output(log, start), installed_packages(log.parent) - before))


def installed_packages(venv: Path) -> int:
    return sum(1 for _ in venv.glob("lib/python3*/site-packages/*.dist-info"))


def progress(text: str, installed: int) -> str:
    """The last line of a command's output, or the number of packages installed so far: pip prints nothing during that longest stage."""
    rows = [row for row in text.splitlines() if not row.startswith("WARNING")]
    packages = next((row for row in rows if row.startswith("Installing collected packages")), "")
    if packages:
        return f"{installed} of {packages.count(',') + 1} packages installed"
    return rows[-1].strip() if rows else ""


def output(log: Path, start: int) -> str:
    """The log from byte `start` on, at most its last 16 KiB."""
    with open(str(log), "rb") as stream:
        stream.seek(max(start, log.stat().st_size - 16384))
        return stream.read().decode(errors="replace").strip()


def failure(title: str, status: int, text: str) -> InstallError:
    remedy = next((remedy for sign, remedy in REMEDIES if sign in text), "The complete output is in .venv/install.log.")
    if status == -9:
        remedy = "The system killed it, most likely because memory ran out: close other programs and run it again."
    tail = "\n".join(f"    {row[:400]}" for row in text.splitlines()[-15:])
    return InstallError(f"'{title}' ended with status {status}. Its last lines:\n{tail}", remedy)


class Line:
    """The progress of a step: one line that is rewritten on a terminal, elsewhere a new line every `QUIET_S` seconds."""

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
    """Make the environment or update it; do nothing if it is up to date.

    Raises:
        InstallError: it could not be made; the next call tries again.
    """
    import fcntl

    if (root / ".venv").is_symlink():
        print(".venv is a link: using that environment unchanged", flush=True)
        return
    with open(str(root / "pyproject.toml")) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another command is making .venv: waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = Stamp(root / ".venv")
        if venv_python(root) and stamp.read().get("fingerprint") == fingerprint(root, extra, dev):
            return
        started = time.monotonic()
        kind = "an NVIDIA GPU" if extra == "gpu" else "the CPU"
        print(f"Making the environment for {kind} in {root / '.venv'}: several minutes the first time. Log: .venv/install.log", flush=True)
        Installation(root, extra, dev).run()
        stamp.write(extra, fingerprint(root, extra, dev))
        print(f"The environment is ready: {time.monotonic() - started:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make .venv or update it.")
    parser.add_argument(
        "--extra", choices=["auto", "cpu", "gpu"], default="auto", help="hardware to install for; auto looks for an NVIDIA GPU"
    )
    parser.add_argument("--dev", action="store_true", help="install also the packages for tests and checks")
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
        print("\nStopped. Run the same command to continue.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Two Unix users on one machine: what one plants for the other does nothing; what is to be shared can be read."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("useradd") is None, reason="makes users, which root may"
)
#: Where the tests' own packages are.
PACKAGES = sysconfig.get_path("purelib")


@dataclass
class User:
    """A user of this machine with a home of its own, in a group with the other."""

    name: str
    group: str
    home: Path
    root: Path
    interpreter: str

    def python(self, code: str, umask: int = 0o022, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.interpreter, "-c", code], cwd=self.home, user=self.name, group=self.group, extra_groups=[],
            umask=umask, capture_output=True, text=True, timeout=900, check=False,
            env={
                "PATH": os.environ["PATH"], "PYTHONPATH": f"{self.root}:{PACKAGES}", "HOME": str(self.home),
                **environment,
            },
        )  # fmt: skip

    def does(self, code: str, umask: int = 0o022, **environment: str) -> str:
        done = self.python(code, umask, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def users(root: Path) -> Iterator[tuple[User, User]]:
    """Alice, whose trainings run, and Bob: users of this run alone, gone with their files at its end."""
    interpreter = _for_everybody(root)
    group = f"everest-{secrets.token_hex(3)}"
    place = Path("/var/tmp") / f"{group}-users"
    with contextlib.ExitStack() as stack:
        place.mkdir(mode=0o755)
        stack.callback(shutil.rmtree, place)
        _made(stack, group, "groupadd", "groupdel")
        made = []
        for name in (f"{group}-alice", f"{group}-bob"):
            _made(stack, name, "useradd", "userdel", "--no-create-home", "--gid", group, "--shell", "/bin/sh")
            home = place / name
            home.mkdir()
            shutil.chown(home, name, group)
            home.chmod(0o750)
            made.append(User(name, group, home, root, interpreter))
        yield made[0], made[1]


def _made(stack: contextlib.ExitStack, name: str, add: str, remove: str, *how: str) -> None:
    if subprocess.run([add, *how, name], capture_output=True, check=False).returncode:
        pytest.skip("users cannot be made here")
    stack.callback(subprocess.run, [remove, name], capture_output=True, check=False)


def _for_everybody(root: Path) -> str:
    """An interpreter that any user can start, with the tests' packages: theirs may lie in the home of root."""
    for path in (sys.executable, f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"):
        with contextlib.suppress(OSError):
            tried = subprocess.run(
                [path, "-c", "import pipeline, torch"], cwd="/", user="nobody", capture_output=True, check=False,
                env={"PYTHONPATH": f"{root}:{PACKAGES}"}, timeout=900,
            )  # fmt: skip
            if tried.returncode == 0:
                return path
    pytest.skip("no other user can start this Python, or read this checkout")


#: Takes the lock file LOCK as a stage of run 7 does.
TAKE = """
import os
from pathlib import Path
from pipeline.system.locks import Holder, Turn
print(Turn(Path(os.environ["LOCK"])).take(Holder(7, "r", "n", "s", "f", 0.0)))
"""


@pytest.fixture
def locks(users: tuple[User, User]) -> Iterator[Path]:
    folder = users[0].home.parent / "locks"
    folder.mkdir()
    (folder / "queue").mkdir()
    for path in (folder, folder / "queue"):
        path.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def test_colleagues_read_results_of_a_umask_that_lets_the_group(users: tuple[User, User]) -> None:
    alice, bob = users
    alice.does(
        """
from pathlib import Path
import torch
from models.weights import save_state
from pipeline.system import files
with files.atomic_folder(Path("model")) as folder:
    files.write_json(folder / "card.json", {"a": 1})
    save_state({"w": torch.zeros(2)}, folder, {"architecture": "x", "kwargs": {}})
files.write_text(Path("report.html"), "<html>")
""",
        umask=0o027,
    )
    read = "from pathlib import Path; print(*(len(p.read_bytes()) for p in map(Path, {!r})))"
    places = [str(alice.home / name) for name in ("model/card.json", "model/model.safetensors", "report.html")]
    assert all(int(size) > 0 for size in bob.does(read.format(places)).split())
    assert bob.python(f"open({places[2]!r}, 'a')").returncode != 0, "reads, and changes nothing"


def test_a_command_takes_the_umask_of_its_variable(users: tuple[User, User]) -> None:
    code = "import os\nfrom pipeline.operations.secret_files import set_umask\nset_umask()\nopen('x', 'w')\n"
    assert users[0].does(f"{code}print(oct(os.stat('x').st_mode & 0o777))", EVEREST_UMASK="0007") == "0o660"
    assert "expected 0000 to 0077" in users[0].python(code, EVEREST_UMASK="0777").stderr


def test_a_planted_link_for_a_lock_file_overwrites_nothing(users: tuple[User, User], locks: Path) -> None:
    alice, bob = users
    alice.does("open('thesis', 'w').write('ten years')")
    for name in ("GPU-0", "GPU-1"):
        bob.does(f"import os; os.symlink({str(alice.home / 'thesis')!r}, {str(locks / (name + '.lock'))!r})")
    refused = alice.python(TAKE, LOCK=str(locks / "GPU-0.lock"))
    assert "is a link or no file" in refused.stderr
    assert alice.does("print(open('thesis').read())") == "ten years"
    assert (alice.home / "thesis").stat().st_mode & 0o777 == 0o644


def test_a_pipe_in_the_place_of_a_lock_file_stops_nobody(users: tuple[User, User], locks: Path) -> None:
    alice, bob = users
    bob.does(
        "import os; os.mkfifo(os.environ['LOCK']); os.chmod(os.environ['LOCK'], 0o666)", LOCK=str(locks / "GPU-0.lock")
    )
    refused = alice.python(TAKE, LOCK=str(locks / "GPU-0.lock"))
    assert "is a link or no file" in refused.stderr


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"allowed": 5, "count": "x"}', '{"allowed": ["0"], "count": "all"}'])
def test_a_planted_wish_for_gpus_stops_nobody(users: tuple[User, User], locks: Path, text: str) -> None:
    alice, bob = users
    wish = locks / "queue" / "00000000000000000001-1.json"
    bob.does(f"open({str(wish)!r}, 'w').write({text!r})")
    code = f"""
from pathlib import Path
from pipeline.distributed import devices
devices.listed = lambda: ["0"]
print(devices._reserved(Path({str(locks / "queue" / "2")!r}), ["0"]))
"""
    assert alice.does(code, EVEREST_DEVICE_LOCKS=str(locks)) == "set()"


def test_a_link_in_the_place_of_the_folder_of_locks_is_refused(users: tuple[User, User]) -> None:
    alice, _bob = users
    place = alice.home.parent / "planted"
    place.symlink_to(alice.home)
    refused = alice.python(
        "from pipeline.distributed import devices; devices._folder()", EVEREST_DEVICE_LOCKS=str(place)
    )
    place.unlink()
    assert "is a link" in refused.stderr


def test_a_model_folder_of_another_user_runs_no_code(users: tuple[User, User]) -> None:
    alice, bob = users
    marker = alice.home / "owned"
    bob.does(
        f"""
import os, pickle, pathlib
class Evil:
    def __reduce__(self):
        return (os.system, ("touch {marker}",))
folder = pathlib.Path("model"); folder.mkdir(exist_ok=True)
for name in ("model.safetensors", "pytorch_model.bin", "weights.pth", "config.json", "card.json", "python_model.pkl"):
    (folder / name).write_bytes(pickle.dumps(Evil()))
""",
        umask=0o000,
    )
    bob.home.chmod(0o755)
    folder = bob.home / "model"
    tries = [
        ["predict", str(alice.home / "none.mp4"), "--model", str(folder)],
        ["convert-checkpoint", str(folder / "weights.pth"), str(alice.home / "converted")],
    ]
    for words in tries:
        done = alice.python(f"import sys; sys.argv = ['everest', *{words!r}]; from pipeline.cli import main; main()")
        assert done.returncode not in (0,), words
        assert not marker.exists(), words
        assert "Traceback" not in done.stderr, done.stderr


def test_what_another_user_wrote_into_a_lock_file_does_not_keep_it(users: tuple[User, User], locks: Path) -> None:
    alice, bob = users
    path = locks / "GPU-0.lock"
    write = "import os; open(os.environ['LOCK'], 'w').write(chr(27) + '{' * 1000); os.chmod(os.environ['LOCK'], 0o666)"
    bob.does(write, LOCK=str(path))
    assert alice.does(TAKE, LOCK=str(path)) == "True"
    assert json.loads(path.read_text())["pid"] == 7

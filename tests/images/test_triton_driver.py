"""The image without a compiler: Triton's own code, with images/triton-cc for its C compiler and no other in reach.

The CUDA driver is stood in for by a library with the same names, because loading needs one. That the binding works on
a GPU is not shown here.
"""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from images.dockerfile import ROOT

LOAD = "from triton.backends.nvidia.driver import CudaUtils; print(CudaUtils().launch)"
TOOLS_OF_THE_IMAGE = ("sh", "cp", "cmp", "dirname")

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="NO TRITON: it has no build for this platform"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="NO GCC: the binding is compiled by gcc in the image"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image has at /opt/textgen/triton."""
    folder = tmp_path_factory.mktemp("image") / "triton"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [ROOT / "images" / "build-triton-driver", folder]
    subprocess.run(command, env={**os.environ, "PATH": path}, check=True, capture_output=True)
    return folder


def load_binding(built: Path, folder: Path, driver: Path) -> subprocess.CompletedProcess[str]:
    tools = folder / "bin"
    tools.mkdir()
    for tool in TOOLS_OF_THE_IMAGE:
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    env = {
        "PATH": str(tools),
        "CC": str(built / "triton-cc"),
        "HOME": str(folder),
        "TRITON_LIBCUDA_PATH": str(driver),
        "LD_LIBRARY_PATH": str(driver),
    }
    return subprocess.run([sys.executable, "-c", LOAD], env=env, cwd=folder, capture_output=True, text=True)


def stand_in_for_the_driver(built: Path, folder: Path) -> Path:
    """A folder with a libcuda.so.1 that has every function of the driver that the binding asks for."""
    symbols = subprocess.check_output(["nm", "-D", "--undefined-only", built / "cuda_utils.so"], text=True)
    names = [line.split()[-1] for line in symbols.splitlines() if line.split()[-1].startswith("cu")]
    source = folder / "driver.c"
    source.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in names))
    library = folder / "driver" / "libcuda.so.1"
    library.parent.mkdir()
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library.parent


def test_triton_loads_its_binding_where_there_is_no_compiler(built: Path, tmp_path: Path) -> None:
    loaded = load_binding(built, tmp_path, stand_in_for_the_driver(built, tmp_path))
    assert loaded.returncode == 0, loaded.stderr
    assert "launch" in loaded.stdout


def test_a_binding_of_another_triton_is_refused_with_the_remedy(built: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.c"
    other.write_text((built / "cuda_utils.c").read_text() + "\n")
    done = subprocess.run([built / "triton-cc", other, "-o", tmp_path / "out.so"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Rebuild the image" in done.stderr
    assert not (tmp_path / "out.so").exists()

"""Settings of the whole test run."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.tiny_dataset import TinyDataset

MOST_WORKERS = 12
# Files side by side start with these, which take 5 to 130 seconds of a core, the longest first: at
# the end nobody waits for one. The sample set is drawn for the third, and read by later ones.
LONGEST = (
    *("launch/test_endings.py", "methods/test_short_runs.py", "gpu_check/test_steps.py"),
    *("methods/test_every_method.py", "methods/test_two_processes.py"),
    *("engine/test_on_a_pretended_gpu.py", "engine/test_resume.py", "tools/test_quickstart.py"),
    # Waits for most of its time.
    "gpu_check/test_runner.py",
    *("tools/test_report.py", "engine/test_trainer.py", "deployment/test_export.py"),
    *("test_train_net.py", "test_bad_input.py", "modeling/backbones/test_timm_backbone.py"),
    *("benchmark/test_benchmarks.py", "config/test_fuzz.py", "stores/test_runs.py"),
    *("engine/test_step.py", "methods/parts/test_pcv.py", "modeling/backbones/test_weights.py"),
    *("inspection/test_panels.py", "data/sample/test_dataset.py", "tools/test_export_model.py"),
    *("tools/test_analyze_localization.py", "tools/test_pseudo_label.py", "config/test_keys.py"),
    *("test_quiet.py", "test_command_lines.py", "launch/test_streams.py", "test_geometry.py"),
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Processes of ``-n auto``: none for single files and tests, which they would hold up."""
    if config.option.keyword or any(".py" in argument for argument in config.args):
        return 0
    cores = len(os.sched_getaffinity(0))
    # Tests of programs wait more than they compute.
    return min(cores + cores // 2, MOST_WORKERS)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Prepare a process that runs tests. The one that has others run them imports nothing."""
    if session.config.pluginmanager.has_plugin("dsession"):
        return
    # Until all is imported and collected there is no garbage, but ever more to look through.
    gc.disable()
    # Tests have sets of their own under the names that documents use.
    os.environ.pop("DETECTRON2_DATASETS", None)
    import hypothesis

    from dre_ssod.workers import compute_with

    # The models of the tests are too small to share among cores: on a busy machine, threads that
    # wait for each other make them many times slower. Sums also have one order.
    compute_with(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of programs that tests start
    # How long an example takes says how busy the machine is.
    hypothesis.settings.register_profile("tests", deadline=None)
    hypothesis.settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, where files run side by side."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    here = Path(__file__).parent
    order = {here / name: number for number, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in order), "LONGEST names a file that has moved"
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture(autouse=True, scope="session")
def _first_model_built() -> None:
    """The first model of a kind in a process draws further random numbers; have it done."""
    from tests.factories import tiny_cfg, tiny_model

    tiny_model(tiny_cfg())
    # Spare the collector, here and in forks, what stays until the end.
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def datasets_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For DETECTRON2_DATASETS: the built-in sample set, drawn once for all processes; read only."""
    from dre_ssod.data.sample.dataset import ensure_sample_set
    from dre_ssod.locks import taking_turns

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with taking_turns(shared / "sample_set.lock"):
        ensure_sample_set(shared / "dre_ssod_sample")
    return shared


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TinyDataset:
    """A tiny set, shared by the tests of a file."""
    from tests.tiny_dataset import write_tiny_dataset

    return write_tiny_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def kept_loggers() -> Iterator[None]:
    """For tests that start runs, which change the loggers."""
    from tests.tiny_dataset import loggers_kept

    with loggers_kept():
        yield


@pytest.fixture
def heard_loggers(kept_loggers: None) -> None:
    """For tests that read messages, which runs of other tests keep from the capturing logger."""
    logging.getLogger("dre_ssod").propagate = True


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of moto's server, on a free port of the loopback."""
    pytest.importorskip("s3fs", reason="needs pip install 'dre_ssod[stores]'")
    server = pytest.importorskip("moto.server", reason="needs moto, flask and flask-cors")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The file system of s3fs, with an empty bucket ``data``."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.fspath(tmp_path / "no_config"))
    # One that runs, where Python starts processes by it, has the environment of its start.
    server: Any = forkserver._forkserver
    server._stop()
    # One for all tests of a process: another takes a fifth of a second.
    system = s3fs.S3FileSystem()
    system.invalidate_cache()
    system.mkdir("data")
    yield system
    system.rm("data", recursive=True)

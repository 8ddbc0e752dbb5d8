"""One model on two nodes, which are two servers here: equal tokens, and what becomes of either when the other dies."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from ports import free_port
from server.running import Server, wait_for
from shapes import SHAPES, make_model
from test_tiny_models import generated, theirs
from tiny_tokenizer import write_tokenizer

SECRET = "not known to anybody else"
START_SECONDS = 300
TINY = ("--device", "cpu", "--cpu-threads", "1", "--cpu-kv-cache-gib", "0.05")


class Nodes:
    """Starts nodes of one group, and ends them all by force in the end."""

    def __init__(self, folder: Path, temp: Path) -> None:
        self.flags = ("--model-id", str(folder), *TINY, "--nnodes", "2", "--master-port", str(free_port()))
        self.temp = temp
        self.started: list[Server] = []

    def start(self, rank: int, *more: str, secret: str = SECRET) -> Server:
        log = self.temp / f"log{len(self.started)}"
        flags = (*self.flags, "--node-rank", str(rank), *more)
        self.started.append(Server(log, *flags, environment={"NODE_SECRET": secret}))
        return self.started[-1]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[Path, list[int]]:
    """A model, and what transformers makes of the prompt with it."""
    folder = tmp_path_factory.mktemp("tiny")
    model = make_model(SHAPES["llama"]["grouped-query"])
    model.save_pretrained(folder)
    write_tokenizer(folder, end=2)
    return folder, theirs(model, [5, 9, 17, 80, 3, 2])


@pytest.fixture
def nodes(tiny, tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tiny[0], tmp_path)
    yield nodes
    for server in nodes.started:
        server.process.kill()
        server.process.wait()


def test_two_nodes_write_what_one_writes_and_either_comes_back_after_its_death(tiny, nodes: Nodes):
    follower = nodes.start(1)
    wait_for(lambda: "waiting for the leader at 127.0.0.1" in follower.log.read_text(), "a line about the leader")
    leader = nodes.start(0)
    wait_for(lambda: (leader.health(), follower.health()) == (200, 200), "both nodes", START_SECONDS)
    assert generated(leader) == tiny[1]

    follower.process.kill()
    wait_for(lambda: leader.health() == 503, "the leader to notice")
    follower = nodes.start(1)
    wait_for(lambda: (leader.health(), follower.health()) == (200, 200), "the group with a new follower", START_SECONDS)
    assert generated(leader) == tiny[1]

    leader.process.kill()
    wait_for(lambda: follower.health() == 503, "the follower to notice")
    leader = nodes.start(0)
    wait_for(lambda: (leader.health(), follower.health()) == (200, 200), "the group with a new leader", START_SECONDS)
    follower.process.send_signal(
        signal.SIGTERM
    )  # as to all of a group at once: it stays for what the leader still does
    wait_for(lambda: "stopping when the leader has" in follower.log.read_text(), "the follower to hear of the end")
    assert generated(leader) == tiny[1]
    assert leader.stop() == 0
    assert follower.process.wait(60) == 0


def test_nodes_that_do_not_fit_together_say_why(nodes: Nodes):
    leader = nodes.start(0, "--dtype", "float32")
    wait_for(lambda: "waiting for node 1 of 2" in leader.log.read_text(), "the leader")
    other_type, other_secret = nodes.start(1, "--dtype", "bfloat16"), nodes.start(1, secret="something else entirely")
    assert (other_type.process.wait(60), other_secret.process.wait(60)) == (1, 1)
    assert (
        "error: the leader refuses this node: its options differ from the leader's: --dtype bfloat16, not float32"
        in (other_type.log.read_text())
    )
    assert "error: the leader has another --node-secret" in other_secret.log.read_text()
    said = leader.log.read_text()
    assert "refused node 1 (127.0.0.1): its options differ" in said
    assert "turned away 127.0.0.1 at --master-port: it has another --node-secret" in said
    assert leader.stop() == 0

"""A pruned model goes to the hub and comes back, against a stand-in for the hub's HTTP API."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from pruning.checkpoints.checkpoint import load_plan, load_pruned, save_pruned
from pruning.cutting.repack import repack
from pruning.plans.plan import PruningPlan
from tests.pruning.checkpoints.test_checkpoint import even_plan
from tests.pruning.tiny_models import PLANS, batch_for, make_tiny

COMMIT = "a" * 40

# First without this project's packages, then with them. Writes what it found to its last argument.
CLIENT = """
import json, sys, torch
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pruning", "exporters", "profiles", "nirvana_deploy"):
            raise ImportError("absent: " + name)
refuse = Refuse()
sys.meta_path.insert(0, refuse)
from transformers import AutoModelForCausalLM
folder, plain, out, found = sys.argv[1:]
batch = torch.load(folder + "/../batch.pt")
def compute(model):
    with torch.no_grad():
        return model.eval()(**batch).logits.tolist()
def load(name, trust=True):
    return AutoModelForCausalLM.from_pretrained(name, trust_remote_code=trust)
load(folder).push_to_hub("owner/remote", max_shard_size="20KB")
load(plain, None).push_to_hub("owner/plain")
logits = {"remote": compute(load("owner/remote")), "plain": compute(load("owner/plain", None))}
kept = list(load("owner/remote").nirvana_files)
sys.meta_path.remove(refuse)
from pruning.checkpoints.checkpoint import load_plan, load_pruned
from pruning.cutting.repack_checkpoint import repack_checkpoint
load_pruned(folder).push_to_hub("owner/memory")
repack_checkpoint("owner/memory", load_plan(folder), out)  # nothing of it was fetched before
logits["memory"] = compute(load("owner/memory"))
json.dump({"logits": logits, "kept": kept}, open(found, "w"))
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as making a repository, committing to it and reading from it take."""

    repositories: dict[str, dict[str, bytes]]

    def log_message(self, *args) -> None:
        pass

    def answer(self, content: object, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"]))
        owner, name = [*self.path.split("/"), "", ""][3:5]
        url = f"http://{self.headers['Host']}/{owner}/{name}"
        if self.path == "/api/repos/create":
            asked = json.loads(text)
            name = f"{asked['organization']}/{asked['name']}"
            self.repositories[name] = {}
            self.answer({"url": f"http://{self.headers['Host']}/{name}"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(text)["files"]]
            modes = [{"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in files]
            self.answer({"files": modes})
        elif "/commit/" in self.path:
            for entry in map(json.loads, text.splitlines()):
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.repositories[f"{owner}/{name}"][entry["value"]["path"]] = content
            self.answer({"commitOid": COMMIT, "commitUrl": f"{url}/commit/{COMMIT}"})
        else:
            self.answer({}, 404)

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        owner, name, *rest = parts[2:] if parts[0] == "api" else parts
        files = self.repositories.get(f"{owner}/{name}", {})
        if parts[0] == "api" and "tree" in rest:
            self.answer(
                [{"type": "file", "path": f, "size": len(files[f]), "oid": f} for f in files]
            )
        elif parts[0] == "api" and files:
            self.answer({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": []})
        elif rest and rest[0] == "resolve" and "/".join(rest[2:]) in files:
            content = files["/".join(rest[2:])]
            tag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.answer(content, ETag=tag, X_Repo_Commit=COMMIT)
        else:
            self.answer({}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)

    def do_HEAD(self) -> None:
        self.do_GET()


@pytest.fixture(scope="module")
def repositories():
    """Serve the stand-in on this machine, and give what it holds."""
    held: dict[str, dict[str, bytes]] = {}
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("RunningHub", (Hub,), {"repositories": held})
    )
    held[""] = {"url": f"http://127.0.0.1:{server.server_port}".encode()}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield held
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def client(repositories, tmp_path_factory) -> tuple[Path, PruningPlan, dict]:
    root = tmp_path_factory.mktemp("hub")
    model = make_tiny("llama")
    plan = PLANS["dropping"](model)
    save_pruned(repack(model, plan), root / "checkpoint")
    save_pruned(repack(model, even_plan(model, heads=True, neurons=True)), root / "plain")
    torch.save(batch_for(model), root / "batch.pt")
    environment = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        "HF_ENDPOINT": repositories[""]["url"].decode(),
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(root / "home"),
        "HF_TOKEN": "hf_none",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    names = [str(root / name) for name in ("checkpoint", "plain", "out", "found.json")]
    command = [sys.executable, "-c", CLIENT, *names]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root, plan, json.loads((root / "found.json").read_text())


@pytest.mark.parametrize("name", ["remote", "memory", "plain"])
def test_a_model_comes_back_from_the_hub_as_it_went(name, client, repositories, tmp_path) -> None:
    root, plan, found = client
    sent = load_pruned(root / ("plain" if name == "plain" else "checkpoint")).eval()
    with torch.no_grad():
        expected = sent(**torch.load(root / "batch.pt")).logits
    assert torch.equal(torch.tensor(found["logits"][name]), expected)
    files = repositories[f"owner/{name}"]
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    assert ("modeling_pruned.py" in files) is (name != "plain")
    if name != "plain":  # a stock class saves what it knows of: no plan
        assert torch.equal(
            load_pruned(tmp_path).eval()(**torch.load(root / "batch.pt")).logits, expected
        )
        assert load_plan(tmp_path) == plan
    assert ("model.safetensors.index.json" in files) is (name == "remote")


def test_a_pruned_checkpoint_on_the_hub_is_repacked(client) -> None:
    root, plan, _ = client
    assert load_plan(root / "out") == plan
    for name, tensor in load_pruned(root / "checkpoint").state_dict().items():
        assert torch.equal(load_pruned(root / "out").state_dict()[name], tensor)


def test_the_plan_comes_along_from_the_hub(client) -> None:
    assert client[2]["kept"] == ["plan.json"]

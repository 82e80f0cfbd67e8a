# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images are normalised as the official code does."""

from pathlib import Path

import torch
from mmengine.config import Config
from torch.utils.data._utils.pin_memory import pin_memory

from minigpt4.models import ImageNormalizer
from minigpt4.models.collator import MultimodalInputs, stack_images

ROOT = Path(__file__).parents[2]
# fields that are tensors
NUMBER = len(MultimodalInputs._fields) - len(MultimodalInputs._field_defaults)


def batch(images):
    inputs = MultimodalInputs(*(torch.arange(i + 1) for i in range(NUMBER)))
    return dict(images=images, inputs=inputs, samples=['s'], counts={})


def test_red_is_normalised_with_clip_constants():
    red = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    red[:, 0] = 255
    out = ImageNormalizer()(batch(red))
    assert out['images'].dtype == torch.float32
    expected = torch.tensor(
        [
            (1 - 0.48145466) / 0.26862954,
            -0.4578275 / 0.26130258,
            -0.40821073 / 0.27577711,
        ]
    )
    torch.testing.assert_close(out['images'][1, :, 2, 3], expected)
    assert out['samples'] == ['s']
    assert set(out) == {'images', 'inputs', 'samples'}


def test_inputs_stay_a_named_tuple_without_images():
    data = batch(None)
    out = ImageNormalizer()(data)
    assert out['images'] is None
    assert isinstance(out['inputs'], MultimodalInputs)
    for got, expected in zip(out['inputs'], data['inputs'], strict=True):
        assert (got == expected) is True or torch.equal(got, expected)


def test_constants_are_settings_and_not_in_the_state_dict():
    normalizer = ImageNormalizer(mean=(0, 0, 0), std=(1, 1, 0.5))
    assert not normalizer.state_dict()
    out = normalizer(batch(torch.full((1, 3, 1, 1), 51, dtype=torch.uint8)))
    torch.testing.assert_close(
        out['images'].flatten(), torch.tensor([0.2, 0.2, 0.4])
    )


def test_all_tensors_move_to_the_device():
    out = ImageNormalizer().to('meta')(
        batch(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    )
    assert out['images'].device.type == 'meta'
    assert all(t.device.type == 'meta' for t in out['inputs'][:NUMBER])


def test_channels_last_images_are_normalised_alike():
    """Batches have the layout of decoders, the output is contiguous."""
    images = [
        torch.randint(256, (5, 7, 3), dtype=torch.uint8).permute(2, 0, 1)
        for _ in range(3)
    ]
    stacked = stack_images(images)
    assert torch.equal(stacked, torch.stack(images))
    assert stacked.permute(0, 2, 3, 1).is_contiguous()
    original = stacked.clone()
    out = ImageNormalizer()(batch(stacked))['images']
    expected = ImageNormalizer()(batch(stacked.contiguous()))['images']
    assert torch.equal(out, expected) and out.is_contiguous()
    assert torch.equal(stacked, original)
    floats = stacked.float()  # normalised in place, but not the caller's
    assert torch.equal(ImageNormalizer().normalize(floats), expected)
    assert torch.equal(floats, original.float())


def test_all_tensors_of_a_batch_are_pinned(monkeypatch):
    """PyTorch's pinning thread visits named tuples and lists."""
    pinned = []

    def pin(tensor, device=None):
        pinned.append(tensor.data_ptr())
        return tensor.clone()  # keeps the layout, as pinning does

    monkeypatch.setattr(torch.Tensor, 'pin_memory', pin)
    inputs = MultimodalInputs(
        *(torch.arange(i + 1) for i in range(NUMBER)),
        packed=True,
        prefix=(1, 7),
    )
    images = stack_images([torch.zeros(4, 4, 3).permute(2, 0, 1)] * 2)
    made = dict(
        counts=dict(samples=2),
        pieces=[dict(images=images, inputs=inputs)],
        position=(0, dict(a=(1, 2))),
    )
    out = pin_memory(made)
    piece = out['pieces'][0]
    assert len(pinned) == len(set(pinned)) == NUMBER + 1
    assert isinstance(piece['inputs'], MultimodalInputs)
    assert piece['inputs'].packed is True
    assert piece['images'].stride() == images.stride()
    assert out['counts'] == made['counts']
    # torch 2.6 makes lists of tuples
    assert tuple(piece['inputs'].prefix) == (1, 7)
    group, read = out['position']
    assert group == 0 and list(map(tuple, read.values())) == [(1, 2)]


def test_copies_are_asynchronous(monkeypatch):
    """All tensors go to the device with ``non_blocking``."""
    blocking = []
    to = torch.Tensor.to

    def recording(self, *args, **kwargs):
        if args and isinstance(args[0], torch.device):
            blocking.append(not kwargs.get('non_blocking'))
        return to(self, *args, **kwargs)

    normalizer = ImageNormalizer()
    monkeypatch.setattr(torch.Tensor, 'to', recording)
    normalizer(batch(torch.zeros(1, 3, 2, 2, dtype=torch.uint8)))
    assert len(blocking) > NUMBER and not any(blocking)


def test_loaders_of_the_recipes_pin_and_keep_their_workers():
    for stage in ('stage1', 'stage2'):
        path = f'configs/minigpt4/_base_/{stage}.py'
        loader = Config.fromfile(ROOT / path).train_dataloader
        assert loader.pin_memory and loader.persistent_workers
        assert loader.num_workers > 0

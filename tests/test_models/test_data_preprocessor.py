# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images are normalised as the official code does."""

import torch

from minigpt4.models import ImageNormalizer
from minigpt4.models.multimodal_inputs import MultimodalInputs


def batch(images):
    inputs = MultimodalInputs(*(torch.arange(i + 1) for i in range(6)))
    return dict(images=images, inputs=inputs, samples=['s'], counts={})


def test_red_is_normalised_with_clip_constants():
    red = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    red[:, 0] = 255
    out = ImageNormalizer()(batch(red))
    assert out['images'].dtype == torch.float32
    want = torch.tensor(
        [
            (1 - 0.48145466) / 0.26862954,
            -0.4578275 / 0.26130258,
            -0.40821073 / 0.27577711,
        ]
    )
    torch.testing.assert_close(out['images'][1, :, 2, 3], want)
    assert out['samples'] == ['s']
    assert set(out) == {'images', 'inputs', 'samples'}


def test_inputs_stay_a_named_tuple_and_images_may_lack():
    data = batch(None)
    out = ImageNormalizer()(data)
    assert out['images'] is None
    assert isinstance(out['inputs'], MultimodalInputs)
    for got, want in zip(out['inputs'], data['inputs'], strict=True):
        assert (got == want) is True or torch.equal(got, want)


def test_constants_are_settable_and_in_no_checkpoint():
    normalizer = ImageNormalizer(mean=(0, 0, 0), std=(1, 1, 0.5))
    assert not normalizer.state_dict()
    out = normalizer(batch(torch.full((1, 3, 1, 1), 51, dtype=torch.uint8)))
    torch.testing.assert_close(
        out['images'].flatten(), torch.tensor([0.2, 0.2, 0.4])
    )


def test_everything_goes_to_the_device():
    out = ImageNormalizer().to('meta')(
        batch(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    )
    assert out['images'].device.type == 'meta'
    assert all(t.device.type == 'meta' for t in out['inputs'][:6])

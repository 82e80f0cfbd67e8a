"""What inference reads images with, beside the parts of a 224 model."""

from minigpt4.datasets import LoadImages, PackSample

test_dataloader = dict(
    dataset=dict(
        type='minigpt4.InstructionDataset',
        pipeline=[
            dict(type=LoadImages, size=224, exact=True),
            dict(type=PackSample),
        ],
    )
)

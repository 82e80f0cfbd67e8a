"""Image pipeline of inference, for models of 224 pixels."""

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

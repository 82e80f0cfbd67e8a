"""LoRA and short answers of the paper's "Finetune Vicuna" (appendix A.2).

The paper gives neither the rank, nor the layers, nor the ratios of the data.
The values are those of MiniGPT-v2's code; the weights are our choice.
"""

from minigpt4.data_tools.official_dataset import OfficialDataset
from minigpt4.datasets import FormatQuestion, LoadImages, PackSample

# MiniGPT-4 models/base_model.py and minigpt_v2.py @ d94738a
lora = dict(
    r=64,
    lora_alpha=16,
    lora_dropout=0.05,
    target_modules=['q_proj', 'v_proj'],
)
# of the evaluation of VQAv2, OK-VQA and A-OKVQA
short_answer_prompt = (
    '{question} Answer the question using a single word or phrase.'
)
short_answer_pipeline = [
    dict(type=LoadImages, size=224),
    dict(type=FormatQuestion, prompt=short_answer_prompt),
    dict(type=PackSample),
]
question_datasets = [
    dict(
        type=OfficialDataset,
        source='data/vqav2/v2_mscoco_train2014_annotations.json',
        images='data/coco',
        format='vqa',
        pipeline=short_answer_pipeline,
    ),
    dict(
        type=OfficialDataset,
        source='data/okvqa/mscoco_train2014_annotations.json',
        images='data/coco',
        format='vqa',
        pipeline=short_answer_pipeline,
    ),
    dict(
        type=OfficialDataset,
        source='data/aokvqa/aokvqa_v1p0_train.json',
        images='data/coco',
        format='a-okvqa',
        pipeline=short_answer_pipeline,
    ),
]
# of each 12 samples, the global batch: descriptions, VQAv2, OK-VQA, A-OKVQA
mixture_weights = [6, 4, 1, 1]

# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Questions that only ask for a description: their answers are captions.

Source: the questions of MiniGPT-4's second stage, and the lists of LLaVA for
brief and for detailed descriptions (tables 11 and 12 of arXiv:2304.08485).
"""

import re

from ..prompts import IMAGE_HERE

_PROMPTS = """
Describe this image
Describe the image
Describe this image in detail
Describe the image in detail
Take a look at this image and describe what you notice
Please provide a detailed description of the picture
Please provide a detailed description of the image
Could you describe the contents of this image for me
Describe the image concisely
Provide a brief description of the given image
Offer a succinct explanation of the picture presented
Summarize the visual content of the image
Give a short and clear explanation of the subsequent image
Share a concise interpretation of the image provided
Present a compact description of the photo's key features
Relay a brief, clear account of the picture shown
Render a clear and concise summary of the photo
Write a terse but informative summary of the picture
Create a compact narrative representing the image presented
Describe the following image
Describe the following image in detail
Provide a detailed description of the given image
Give an elaborate explanation of the image you see
Share a comprehensive rundown of the presented image
Offer a thorough analysis of the image
Explain the various aspects of the image before you
Clarify the contents of the displayed image with great detail
Characterize the image using a well-detailed description
Break down the elements of the image in a detailed manner
Walk through the important details of the image
Portray the image with a rich, descriptive narrative
Narrate the contents of the image with precision
Analyze the image in a comprehensive and detailed manner
Illustrate the image through a descriptive explanation
Examine the image closely and share its details
Write an exhaustive depiction of the given image
"""


def _key(question: str) -> str:
    """A question without image slots, case and punctuation at its end."""
    text = question.replace(IMAGE_HERE, ' ').replace('<image>', ' ')
    return re.sub(r'\s+', ' ', text).strip(' .?!:').casefold()


_KEYS = {_key(line) for line in _PROMPTS.strip().splitlines()}


def asks_for_caption(question: str) -> bool:
    """Whether a question is empty, or only asks for a description."""
    key = _key(question)
    return not key or key in _KEYS

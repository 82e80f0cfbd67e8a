"""The four questions of stage 2 (MiniGPT-4 prompts/alignment.txt @ d94738a)."""
alignment_questions = (
    'Describe this image in detail.',
    'Take a look at this image and describe what you notice.',
    'Please provide a detailed description of the picture.',
    'Could you describe the contents of this image for me?',
)

"""What a run can be exported as beside a bundle: a Triton model repository, a Hugging Face folder, a timm folder."""

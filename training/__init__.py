"""Pre-train, fine-tune and probe Masked Autoencoders: python -m training.{pack,pretrain,finetune,probe}."""

"""What several tests share."""

# Of a prompt: as it is trained, without the prompts of its folds, and with validation images.
PLAIN = ["calibrate.method=none", "data.val_shots=4"]
SHORT = [
    "trainer.max_epochs=3",
    "trainer.enable_progress_bar=false",
    "trainer.accelerator=cpu",
    "data.encode_batch_size=9",  # the pictures of `image_folder` fill their batches: fillings cost as much
]

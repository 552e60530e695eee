"""What several tests share."""

SHORT = [
    "trainer.max_epochs=3",
    "trainer.enable_progress_bar=false",
    "trainer.accelerator=cpu",
    "data.encode_batch_size=9",  # the pictures of `image_folder` fill their batches: fillings cost as much
]

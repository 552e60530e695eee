"""What several tests share."""

SHORT = ["trainer.max_epochs=3", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu"]

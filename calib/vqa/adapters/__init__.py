"""Questions from elsewhere: any classification task as multiple choice, and published sets from disk."""

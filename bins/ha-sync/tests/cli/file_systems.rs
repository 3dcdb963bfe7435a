//! Real file systems as destination: what each can keep, what it cannot, and what happens when it is full.

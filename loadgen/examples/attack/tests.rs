//! What the attack says it did, beside what a server says that came.

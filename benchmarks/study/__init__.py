"""The runs behind ``docs/study.md``: planned there before they were made."""

"""The runs behind ``docs/study.md``: planned in ``docs/study_plan.md`` before they were made."""

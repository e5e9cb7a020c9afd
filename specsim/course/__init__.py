"""The course: functions that its notebooks share, and `quiz`, questions with computed answers."""

from specsim.course.notebooks import Here, effort, fast, here, live, say, show

__all__ = ["Here", "effort", "fast", "here", "live", "say", "show"]

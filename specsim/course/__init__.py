"""The course: what its notebooks share, and `quiz`, whose answers are computed."""

from specsim.course.notebooks import Here, effort, fast, here, live, say, show

__all__ = ["Here", "effort", "fast", "here", "live", "say", "show"]

"""The course: functions that its notebooks share, `quiz`, questions with computed answers, and
`exercises`, functions to write."""

from specsim.course.differences import Difference, difference
from specsim.course.notebooks import Here, effort, fast, here, live, say, show

__all__ = ["Difference", "Here", "difference", "effort", "fast", "here", "live", "say", "show"]

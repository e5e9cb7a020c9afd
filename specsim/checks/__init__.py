"""What comes in is checked here: `values` in memory, `text`, `limits` of numbers, `files`.

The checks of values and texts are also names of this package; `files` and `limits` are imported
where they are used.
"""

from specsim.checks.text import number as number
from specsim.checks.text import numbers as numbers
from specsim.checks.text import one_line as one_line
from specsim.checks.text import whole_number as whole_number
from specsim.checks.text import whole_numbers as whole_numbers
from specsim.checks.values import Array as Array
from specsim.checks.values import ArrayLike as ArrayLike
from specsim.checks.values import Booleans as Booleans
from specsim.checks.values import Floats as Floats
from specsim.checks.values import Integers as Integers
from specsim.checks.values import SpecsimError as SpecsimError
from specsim.checks.values import Strings as Strings
from specsim.checks.values import as_survival as as_survival
from specsim.checks.values import at_least_one as at_least_one
from specsim.checks.values import build as build
from specsim.checks.values import distribution as distribution
from specsim.checks.values import one_count as one_count
from specsim.checks.values import quoted as quoted
from specsim.checks.values import require_count as require_count
from specsim.checks.values import require_finite as require_finite
from specsim.checks.values import require_flags as require_flags
from specsim.checks.values import require_positive as require_positive
from specsim.checks.values import require_share as require_share
from specsim.checks.values import require_size as require_size
from specsim.checks.values import require_text as require_text
from specsim.checks.values import rounded as rounded
from specsim.checks.values import whole as whole
from specsim.checks.values import within as within

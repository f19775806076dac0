from .commands import Elsewhere as Elsewhere
from .comparison import Comparison as Comparison
from .comparison import Fact as Fact
from .comparison import Numbers as Numbers
from .permitted import Permitted as Permitted
from .permitted import downloads as downloads
from .running import rerun as rerun
from .telling import summary as summary

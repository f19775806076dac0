from .exploring import explore as explore
from .featured import explore_features as explore_features
from .insides import Insides as Insides
from .levels import Level as Level
from .levels import load_levels as load_levels
from .looking import look_inside as look_inside

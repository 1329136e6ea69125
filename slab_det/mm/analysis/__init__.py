"""The cost of a network: parameters and multiply-adds."""

from .detectors import backbone_cost, detector_cost, proposals_of
from .multiply_adds import Cost, count_costs

__all__ = ['Cost', 'backbone_cost', 'count_costs', 'detector_cost', 'proposals_of']

"""All that knows mmengine or mmdet."""

from slab_det.compat import require_detection

require_detection('slab_det.mm')

#!/usr/bin/env bash
# From nothing to a trained detector: installs what is missing (tools/setup_env.sh says where), makes the
# built-in data set, trains a Mask R-CNN with a SLAB-Swin backbone, evaluates it and draws its predictions.
#   bash tools/quickstart.sh
# Everything that it writes lies in data/shapes and work_dirs/quickstart.
(($# == 0)) || { echo "error: quickstart.sh takes no arguments, got '$*'" >&2; exit 2; }
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$ROOT"

CONFIG=configs/mini/mask-rcnn_slab-swin_mini_shapes.py
export SHAPES_ROOT=data/shapes
WORK=work_dirs/quickstart
PICTURES=$WORK/pictures
LOGS=$WORK/logs

# Training shows a line per epoch, everything is in the log.
train() {
    local log=$LOGS/train.log start=$SECONDS status=0
    mkdir -p "$LOGS" || fail "the folder $LOGS cannot be made: is the disk full, or the repository read-only?"
    echo "==> Training $CONFIG"
    # Without validation at its end: tools/test.py does that next.
    "$PYTHON" tools/train.py "$CONFIG" --work-dir "$WORK" --cfg-options train_cfg.val_interval=1000 2>&1 | tee "$log" |
        sed -unE 's/.*Epoch\(train\) +(\[[0-9]+\]\[[^]]+\]).* eta: ([0-9:]+) .* prepbn_ratio: ([0-9.]+) .* loss: ([0-9.]+) .*/    epoch \1  left \2  PRepBN ratio \3  loss \4/p' || status=$?
    ((status == 0)) || explain train "Training" "$log"
    TRAIN_SECONDS=$((SECONDS - start))
    echo "    done in $(took $TRAIN_SECONDS)"
}

cuda_operators_missing() {  # torch can use a GPU, but mmcv was built without operators for it
    "$PYTHON" - <<'PY' >/dev/null 2>&1
import sys
import torch
if not torch.cuda.is_available():
    sys.exit(1)
from mmcv.ops import nms
try:
    nms(torch.eye(4, device='cuda')[:2], torch.ones(2, device='cuda'), 0.5)
except RuntimeError:
    sys.exit(0)
sys.exit(1)
PY
}

table() {  # table CHECKPOINT: from the metrics that the newest evaluation wrote
    "$PYTHON" - "$WORK/evaluation" "$1" "$PICTURES" "$TRAIN_SECONDS" "$SECONDS" <<'PY'
import json
import sys
from pathlib import Path
evaluation, checkpoint, pictures, training, total = sys.argv[1:]
metrics = json.loads(max(Path(evaluation).glob('2*/2*.json')).read_text().splitlines()[-1])
print(f"\n{'':8}{'AP':>8}{'AP50':>8}")
for name, key in (('boxes', 'bbox'), ('masks', 'segm')):
    print(f"{name:8}{metrics[f'coco/{key}_mAP']:8.3f}{metrics[f'coco/{key}_mAP_50']:8.3f}")
print(f'\nseconds     {training} training, {total} in all\ncheckpoint  {checkpoint}\npictures    {pictures}')
PY
}

if cuda_operators_missing; then
    echo "    mmcv has no operators for this GPU, training uses the CPU (with nvcc in PATH and $VENV removed, they are built)"
    export CUDA_VISIBLE_DEVICES=
fi
step dataset "Making the built-in data set in $SHAPES_ROOT" "$PYTHON" tools/make_dataset.py "$SHAPES_ROOT"
train
checkpoint=$(cat "$WORK/last_checkpoint")
checkpoint=${checkpoint#"$ROOT"/}
step evaluation "Evaluating $checkpoint" \
    "$PYTHON" tools/test.py "$CONFIG" "$checkpoint" --work-dir "$WORK/evaluation"
rm -rf "$PICTURES"
step pictures "Drawing predictions beside the ground truth" \
    "$PYTHON" tools/visualize.py "$CONFIG" "$checkpoint" --out "$PICTURES"
table "$checkpoint"

#!/bin/sh
# A layer's life with the program: `life.sh [ROOT]`, as root, on a kernel with device-mapper. Ends with an empty pool that is not active.
set -eu
root=${1:-$(mktemp -d)}
t() { thinlayer --root "$root" --storage-opt dm.basesize=512M --storage-opt dm.loopdatasize=2G --storage-opt dm.loopmetadatasize=32M "$@"; }

echo "# an image layer with a file in it"
t create image
tree=$(t mount image)
echo "from the image" >"$tree/file"
t umount image

echo "# two containers on it, of which one changes the file"
t create --parent image one
t create --parent image two
tree=$(t mount one)
echo "from container one" >"$tree/file"
t umount one

echo "# the other does not see the change"
cat "$(t mount two)/file"
t umount two

t tree
t status
t rm one two image
t check
t stop

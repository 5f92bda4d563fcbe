#!/bin/sh
# Prints the lines of each room (no tests, nothing generated) beside the figure that the design gives it.
set -eu
total=0 budget=0
printf '%-12s %8s %8s\n' room lines design
while read -r room figure; do
	lines=$(find "$room" -name '*.go' ! -name '*_test.go' ! -path 'deploy/tools/*' 2>/dev/null |
		xargs -r grep -L '^// Code generated' | xargs -r cat | wc -l)
	printf '%-12s %8d %8d\n' "$room" "$lines" "$figure"
	total=$((total + lines)) budget=$((budget + figure))
done <<-ROOMS
	client 1000
	apiserver 6000
	scheduler 2000
	controllers 4500
	kubelet 4500
	proxy 1500
	cni 1000
	lab 3000
	cmd 1000
	deploy 500
ROOMS
printf '%-12s %8d %8d\n' all "$total" "$budget"

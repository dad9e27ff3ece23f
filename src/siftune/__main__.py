from siftune.cli import main

main()

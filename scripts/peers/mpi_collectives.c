/* An independent measurement of what the MPI engine measures: collectives over MPI_COMM_WORLD, out of place, f32 sums.
 *
 *   mpicc -O2 -o mpi_collectives scripts/peers/mpi_collectives.c
 *   mpirun -n 2 ./mpi_collectives OP BYTES SECONDS     OP: all_reduce, all_gather, reduce_scatter, broadcast, alltoall
 *
 * Rank 0 prints the median over batches of the slowest rank's time of one execution, in seconds. A batch lasts about a
 * millisecond or one execution, as ridgepoint's samples do; all ranks start it together. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *op;
static float *from, *to;
static int count, n;

static void once(void) {
    int part = count / n;
    if (!strcmp(op, "all_reduce")) MPI_Allreduce(from, to, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    else if (!strcmp(op, "all_gather")) MPI_Allgather(from, part, MPI_FLOAT, to, part, MPI_FLOAT, MPI_COMM_WORLD);
    else if (!strcmp(op, "reduce_scatter")) MPI_Reduce_scatter_block(from, to, part, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    else if (!strcmp(op, "broadcast")) MPI_Bcast(to, count, MPI_FLOAT, 0, MPI_COMM_WORLD);
    else if (!strcmp(op, "alltoall")) MPI_Alltoall(from, part, MPI_FLOAT, to, part, MPI_FLOAT, MPI_COMM_WORLD);
    else MPI_Abort(MPI_COMM_WORLD, 2);
}

static double batch(int times) {
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Barrier(MPI_COMM_WORLD);
    double start = MPI_Wtime();
    for (int i = 0; i < times; i++) once();
    double took = (MPI_Wtime() - start) / times, slowest;
    MPI_Allreduce(&took, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return slowest;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n);
    if (argc != 4) {
        if (rank == 0) fprintf(stderr, "usage: %s OP BYTES SECONDS\n", argv[0]);
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    op = argv[1];
    count = atol(argv[2]) / 4;
    double limit = atof(argv[3]);
    from = malloc(count * sizeof *from);
    to = malloc(count * sizeof *to);
    for (int i = 0; i < count; i++) from[i] = rank + i % 7, to[i] = -1;
    /* Warm up, and find how many make a millisecond; every rank must come to the same number. */
    batch(3);
    double single = batch(3);
    int times = single < 1e-3 ? (int)(1e-3 / single) + 1 : 1;
    enum { MOST = 100000 };
    double *took = malloc(MOST * sizeof *took), start = MPI_Wtime();
    int samples = 0, going = 1;
    while (going) {
        took[samples++] = batch(times);
        going = samples < 10 || (MPI_Wtime() - start < limit && samples < MOST);
        MPI_Bcast(&going, 1, MPI_INT, 0, MPI_COMM_WORLD);
    }
    if (!strcmp(op, "all_reduce"))
        for (int i = 0; i < count; i++)
            if (to[i] != n * (n - 1) / 2 + n * (i % 7)) MPI_Abort(MPI_COMM_WORLD, 1);
    qsort(took, samples, sizeof *took, by_size);
    if (rank == 0) printf("%.9g\n", took[samples / 2]);
    MPI_Finalize();
    return 0;
}
